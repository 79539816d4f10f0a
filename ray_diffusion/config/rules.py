"""Combinations of keys that cannot work, although each key alone is fine.

To add a rule, add one entry to ``RULES``: the keys it is about (the first takes the blame), what
must hold, and what to say when it does not; ``{section.key}`` in the message becomes the value.
"""

from collections.abc import Callable, Collection, Iterator
from typing import Final, NamedTuple

from ray_diffusion.config.passwords import without_passwords
from ray_diffusion.config.schema import Config
from ray_diffusion.config.tree import leaves


class Rule(NamedTuple):
    """A condition on a whole config, and how to say that it is broken."""

    keys: tuple[str, ...]
    holds: Callable[[Config], bool]
    message: str


def _no_password(key: str, location: Callable[[Config], str], advice: str) -> Rule:
    return Rule(
        (key,),
        lambda c: without_passwords(location(c)) == location(c),
        f"must not hold a password, as all records of the run would; {advice}",
    )


STORAGE_ADVICE: Final = (
    "the storage's client takes its credentials from environment variables, see cluster.forward_env"
)

RULES: Final = (
    Rule(
        ("diffusion.beta_start", "diffusion.beta_end"),
        lambda c: c.diffusion.beta_start < c.diffusion.beta_end,
        "must be below diffusion.beta_end, {diffusion.beta_end}, got {diffusion.beta_start}",
    ),
    Rule(
        ("data.image_size", "model.channel_mults", "model.kind"),
        lambda c: (
            c.model.kind not in ("unet", "tutorial_unet")
            or c.data.side % 2 ** (len(c.model.channel_mults) - 1) == 0
        ),
        "{data.side} pixels cannot be halved once for each level of model.channel_mults "
        "after the first",
    ),
    Rule(
        ("data.image_size", "model.channel_mults", "model.patch_size", "model.kind"),
        lambda c: not c.model.learns_codec or c.data.image_size % c.model.latent_factor == 0,
        "{data.image_size} pixels cannot be cut into squares of model.patch_size, "
        "{model.patch_size}, and halved once for each level of model.channel_mults after the first",
    ),
    Rule(
        ("autoencoder.adversarial_weight", "data.image_size", "model.kind"),
        lambda c: (
            not c.model.learns_codec
            or not c.autoencoder.adversarial_weight
            or c.data.image_size >= 8
        ),
        "the discriminator looks at patches that images of {data.image_size} pixels do not hold; "
        "set it to 0",
    ),
    Rule(
        ("cluster.strategy", "model.kind"),
        lambda c: not c.model.learns_codec or c.cluster.strategy == "ddp",
        "an autoencoder is trained with ddp alone, got {cluster.strategy}",
    ),
    Rule(
        ("data.codec", "model.kind"),
        lambda c: not c.model.learns_codec or c.data.codec is None,
        "an autoencoder is trained on images, not on latents of another codec",
    ),
    Rule(
        ("sampler.clip_x0", "data.codec"),
        lambda c: c.data.codec is None or not c.sampler.clip_x0,
        "latents have no range to be clipped to; leave it out",
    ),
    Rule(
        ("data.global_batch_size", "cluster.num_workers"),
        lambda c: c.data.global_batch_size >= c.cluster.most_workers,
        "must be at least cluster.num_workers, {cluster.most_workers}, "
        "got {data.global_batch_size}",
    ),
    Rule(
        ("cluster.num_workers",),
        lambda c: c.cluster.least_workers <= c.cluster.most_workers,
        "must be [LEAST, MOST], got {cluster.num_workers}",
    ),
    Rule(
        ("run.allow",),
        lambda c: set(c.run.allow) <= set(leaves(Config)),
        "names a key that does not exist, got {run.allow}",
    ),
    Rule(
        ("data.mixture_weights", "data.mixture_urls"),
        lambda c: len(c.data.mixture_weights) in (0, 1 + len(c.data.mixture_urls)),
        "must be one for data.dataset_url and one for each of data.mixture_urls, "
        "got {data.mixture_weights}",
    ),
    Rule(
        ("model.channels",),
        lambda c: c.model.channels % 8 == 0,
        "must be a multiple of 8, got {model.channels}",
    ),
    Rule(
        ("model.attention_levels", "model.channel_mults", "model.kind"),
        lambda c: (
            c.model.kind != "unet"
            or all(level < len(c.model.channel_mults) for level in c.model.attention_levels)
        ),
        "names a level that model.channel_mults does not have; levels count from 0",
    ),
    Rule(
        ("model.channel_mults", "model.kind"),
        lambda c: c.model.kind != "tutorial_unet" or len(c.model.channel_mults) > 1,
        "tutorial_unet needs two levels or more: it is told noise level and class between them",
    ),
    Rule(
        ("data.image_size", "model.patch_size", "model.kind"),
        lambda c: c.model.kind != "dit" or c.data.side % c.model.patch_size == 0,
        "{data.side} pixels cannot be cut into patches of model.patch_size, {model.patch_size}",
    ),
    Rule(
        ("model.dropout", "model.kind"),
        lambda c: c.model.dropout == 0 or c.model.kind == "unet",
        "only model.kind=unet has dropout, got {model.kind}",
    ),
    Rule(
        ("optim.warmup_images", "training.total_images"),
        lambda c: c.optim.warmup_images <= c.training.total_images,
        "must be at most training.total_images, {training.total_images}, got {optim.warmup_images}",
    ),
    Rule(
        ("training.total_images", "data.global_batch_size"),
        lambda c: c.training.total_images >= c.data.global_batch_size,
        "must be at least data.global_batch_size, {data.global_batch_size}, "
        "got {training.total_images}",
    ),
    Rule(
        ("diffusion.sigma_min", "diffusion.sigma_max"),
        lambda c: c.diffusion.sigma_min < c.diffusion.sigma_max,
        "must be below diffusion.sigma_max, {diffusion.sigma_max:g}, got {diffusion.sigma_min:g}",
    ),
    Rule(
        ("diffusion.betas", "diffusion.beta_schedule"),
        lambda c: (c.diffusion.beta_schedule == "custom") == (c.diffusion.betas is not None),
        "belongs to diffusion.beta_schedule=custom; give both or neither",
    ),
    Rule(
        ("diffusion.num_train_timesteps", "diffusion.betas"),
        lambda c: len(c.diffusion.betas or ()) in (0, c.diffusion.num_train_timesteps),
        "must be the number of diffusion.betas, got {diffusion.num_train_timesteps}",
    ),
    Rule(
        ("diffusion.rescale_zero_terminal_snr", "diffusion.prediction_type"),
        lambda c: (
            not c.diffusion.rescale_zero_terminal_snr
            or c.diffusion.prediction_type not in ("epsilon", "score")
        ),
        "a timestep without signal teaches nothing to diffusion.prediction_type="
        "{diffusion.prediction_type}; choose v_prediction, sample, edm or flow",
    ),
    Rule(
        ("diffusion.learn_variance", "diffusion.family"),
        lambda c: not c.diffusion.learn_variance or c.diffusion.family == "ddpm",
        "the variance of steps between timesteps needs diffusion.family=ddpm, "
        "got {diffusion.family}",
    ),
    Rule(
        ("sampler.variance", "diffusion.learn_variance"),
        lambda c: c.sampler.variance != "learned" or c.diffusion.learn_variance,
        "learned needs a model trained with diffusion.learn_variance=true",
    ),
    Rule(
        ("sampler.variance", "sampler.solver"),
        lambda c: c.sampler.variance == "beta_tilde" or c.sampler.solver == "ddpm",
        "only sampler.solver=ddpm has a choice of variance, got {sampler.solver}",
    ),
    Rule(
        ("sampler.eta", "sampler.solver"),
        lambda c: c.sampler.eta == 0 or c.sampler.solver == "ddim",
        "only sampler.solver=ddim has an eta, got {sampler.solver}",
    ),
    Rule(
        ("sampler.num_inference_steps", "sampler.grid", "diffusion.num_train_timesteps"),
        lambda c: (
            c.sampler.grid not in ("trailing", "leading", "linspace")
            or c.sampler.num_inference_steps <= c.diffusion.num_train_timesteps
        ),
        "must be at most diffusion.num_train_timesteps, {diffusion.num_train_timesteps}, "
        "on sampler.grid={sampler.grid}, got {sampler.num_inference_steps}",
    ),
    Rule(
        ("sampler.num_inference_steps", "sampler.grid"),
        lambda c: c.sampler.grid != "geometric" or c.sampler.num_inference_steps <= 400,
        "must be at most 400 on sampler.grid=geometric, whose every step leaves 0.9 of the noise, "
        "got {sampler.num_inference_steps}",
    ),
    Rule(
        ("sampler.guidance_scale", "model.class_dropout_prob"),
        lambda c: c.sampler.guidance_scale == 1 or c.model.class_dropout_prob > 0,
        "guidance needs model.class_dropout_prob above 0; set it, or guidance_scale=1",
    ),
    Rule(
        ("sampler.guidance_scale", "model.num_classes"),
        lambda c: c.sampler.guidance_scale == 1 or c.model.num_classes != 0,
        "guidance needs classes; set model.num_classes above 0, or guidance_scale=1",
    ),
    _no_password(
        "tracking.uri",
        lambda c: c.tracking.uri or "",
        "put it into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
        "or the whole URI into MLFLOW_TRACKING_URI",
    ),
    _no_password("run.storage_url", lambda c: c.run.storage_url, STORAGE_ADVICE),
    _no_password("run.init_from", lambda c: c.run.init_from or "", STORAGE_ADVICE),
    _no_password("data.dataset_url", lambda c: c.data.dataset_url, STORAGE_ADVICE),
    _no_password("data.mixture_urls", lambda c: " ".join(c.data.mixture_urls), STORAGE_ADVICE),
    _no_password(
        "autoencoder.perceptual_url", lambda c: c.autoencoder.perceptual_url or "", STORAGE_ADVICE
    ),
)


def broken(config: Config, skip: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """The rules that a config breaks.

    Args:
        config: The config to check.
        skip: Keys whose value is not what the user gave; rules about them say nothing.

    Yields:
        The key to blame and what is wrong with it.
    """
    for rule in RULES:
        if not any(key in skip for key in rule.keys) and not rule.holds(config):
            yield rule.keys[0], rule.message.format(**dict(config))
