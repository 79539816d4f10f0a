import pytest

from ray_diffusion import config
from ray_diffusion.config.rules import RULES
from ray_diffusion.errors import ConfigError

BROKEN = {
    "beta_start": (
        ["diffusion.beta_start=0.1"],
        "diffusion.beta_start: must be below diffusion.beta_end, 0.02, got 0.1",
    ),
    "image_size": (
        ["data.image_size=9"],
        "data.image_size: 9 pixels cannot be halved once for each level of model.channel_mults "
        "after the first",
    ),
    "global_batch_size": (
        ["cluster.num_workers=[1,200]"],
        "data.global_batch_size: must be at least cluster.num_workers, 200, got 128",
    ),
    "num_workers": (
        ["cluster.num_workers=[3,2]"],
        "cluster.num_workers: must be [LEAST, MOST], got (3, 2)",
    ),
    "allow": (
        ["run.allow=[optim.lrr]"],
        "run.allow: names a key that does not exist, got ('optim.lrr',)",
    ),
    "mixture_weights": (
        ["data.mixture_urls=[a, b]", "data.mixture_weights=[1, 2]"],
        "data.mixture_weights: must be one for data.dataset_url and one for each of "
        "data.mixture_urls, got (1.0, 2.0)",
    ),
    "channels": (["model.channels=12"], "model.channels: must be a multiple of 8, got 12"),
    "attention_levels": (
        ["model.attention_levels=[0,2]"],
        "model.attention_levels: names a level that model.channel_mults does not have; "
        "levels count from 0",
    ),
    "one level": (
        ["model.kind=tutorial_unet", "model.channel_mults=[1]"],
        "model.channel_mults: tutorial_unet needs two levels or more: it is told noise level and "
        "class between them",
    ),
    "patches": (
        ["data.image_size=9", "model.kind=dit"],
        "data.image_size: 9 pixels cannot be cut into patches of model.patch_size, 2",
    ),
    "image_size of an autoencoder": (
        ["data.image_size=10", "model.kind=autoencoder"],
        "data.image_size: 10 pixels cannot be cut into squares of model.patch_size, 2, and halved "
        "once for each level of model.channel_mults after the first",
    ),
    "discriminator": (
        ["data.image_size=4", "model.kind=autoencoder", "autoencoder.adversarial_weight=0.1"],
        "autoencoder.adversarial_weight: the discriminator looks at patches that images of 4 "
        "pixels do not hold; set it to 0",
    ),
    "strategy of an autoencoder": (
        ["cluster.strategy=fsdp", "model.kind=autoencoder"],
        "cluster.strategy: an autoencoder is trained with ddp alone, got fsdp",
    ),
    "codec of an autoencoder": (
        ["data.codec=identity-0", "model.kind=autoencoder"],
        "data.codec: an autoencoder is trained on images, not on latents of another codec",
    ),
    "clip_x0": (
        ["data.codec=identity-0", "sampler.clip_x0=true"],
        "sampler.clip_x0: latents have no range to be clipped to; leave it out",
    ),
    "dropout": (
        ["model.dropout=0.1", "model.kind=tiny"],
        "model.dropout: only model.kind=unet has dropout, got tiny",
    ),
    "warmup_images": (
        ["optim.warmup_images=1e6"],
        "optim.warmup_images: must be at most training.total_images, 64000, got 1000000",
    ),
    "total_images": (
        ["training.total_images=100"],
        "training.total_images: must be at least data.global_batch_size, 128, got 100",
    ),
    "sigmas": (
        ["diffusion.sigma_min=60"],
        "diffusion.sigma_min: must be below diffusion.sigma_max, 50, got 60",
    ),
    "betas": (
        ["diffusion.betas=[0.1,0.2]", "diffusion.num_train_timesteps=2", "sampler.grid=karras"],
        "diffusion.betas: belongs to diffusion.beta_schedule=custom; give both or neither",
    ),
    "custom timesteps": (
        ["diffusion.betas=[0.1,0.2]", "diffusion.beta_schedule=custom"],
        "diffusion.num_train_timesteps: must be the number of diffusion.betas, got 1000",
    ),
    "zero terminal SNR": (
        ["diffusion.rescale_zero_terminal_snr=true", "diffusion.prediction_type=epsilon"],
        "diffusion.rescale_zero_terminal_snr: a timestep without signal teaches nothing to "
        "diffusion.prediction_type=epsilon; choose v_prediction, sample, edm or flow",
    ),
    "learn_variance": (
        ["diffusion.learn_variance=true", "diffusion.family=ve_sde"],
        "diffusion.learn_variance: the variance of steps between timesteps needs "
        "diffusion.family=ddpm, got ve_sde",
    ),
    "variance not learned": (
        ["sampler.variance=learned", "sampler.solver=ddpm"],
        "sampler.variance: learned needs a model trained with diffusion.learn_variance=true",
    ),
    "variance of a solver": (
        ["sampler.variance=analytic"],
        "sampler.variance: only sampler.solver=ddpm has a choice of variance, got dpmpp_2m",
    ),
    "eta": (
        ["sampler.eta=0.5", "sampler.solver=heun"],
        "sampler.eta: only sampler.solver=ddim has an eta, got heun",
    ),
    "num_inference_steps": (
        ["diffusion.num_train_timesteps=10", "sampler.grid=trailing"],
        "sampler.num_inference_steps: must be at most diffusion.num_train_timesteps, 10, "
        "on sampler.grid=trailing, got 15",
    ),
    "geometric": (
        ["sampler.grid=geometric", "sampler.num_inference_steps=500"],
        "sampler.num_inference_steps: must be at most 400 on sampler.grid=geometric, whose every "
        "step leaves 0.9 of the noise, got 500",
    ),
    "guidance_without_dropout": (
        ["sampler.guidance_scale=2", "model.class_dropout_prob=0"],
        "sampler.guidance_scale: guidance needs model.class_dropout_prob above 0; set it, "
        "or guidance_scale=1",
    ),
    "guidance_without_classes": (
        ["sampler.guidance_scale=2", "model.num_classes=0"],
        "sampler.guidance_scale: guidance needs classes; set model.num_classes above 0, "
        "or guidance_scale=1",
    ),
    "password of MLflow": (
        ["tracking.uri=https://me:secret@mlflow:5000"],
        "tracking.uri: must not hold a password, as all records of the run would; put it into "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or the whole URI into "
        "MLFLOW_TRACKING_URI",
    ),
} | {
    f"password in {key}": (
        [f"{key}={value}"],
        f"{key}: must not hold a password, as all records of the run would; the storage's client "
        "takes its credentials from environment variables, see cluster.forward_env",
    )
    for key, value in {
        "run.storage_url": "sftp://me:secret@host/runs",
        "run.init_from": "sftp://me:secret@host/runs/digits",
        "data.dataset_url": "https://me:secret@host/data",
        "data.mixture_urls": "['s3://a/b', 'https://me:secret@host/data']",
        "autoencoder.perceptual_url": "https://me:secret@host/lpips.pt",
    }.items()
}


def test_every_rule_has_a_case():
    assert len(BROKEN) == len(RULES)


@pytest.mark.parametrize(("argv", "line"), BROKEN.values(), ids=BROKEN)
def test_a_broken_rule_is_one_problem(argv: list[str], line: str):
    with pytest.raises(ConfigError) as caught:
        config.load(argv)
    assert caught.value.problems == [line]


def test_rules_are_checked_although_other_keys_are_wrong():
    with pytest.raises(ConfigError) as caught:
        config.load(["model.channels=12", "optim.lr=-1", "optim.lrr=1"])
    assert "model.channels: must be a multiple of 8, got 12" in caught.value.problems
    assert len(caught.value.problems) == 3


def test_a_rule_about_a_wrong_key_says_nothing():
    # With the default of 50 in place of `x`, the rule about the steps would be broken.
    with pytest.raises(ConfigError) as caught:
        config.load(["sampler.num_inference_steps=x", "diffusion.num_train_timesteps=20"])
    assert caught.value.problems == ["sampler.num_inference_steps: 'x' is not a whole number"]
