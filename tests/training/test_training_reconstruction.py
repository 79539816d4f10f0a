"""Autoencoders in the loop of all models: they learn, resume to the bit, and become codecs."""

import math
import warnings
from pathlib import Path

import pytest
import torch
from toy import BATCH, CPU, Killed, World, configured, killed_at

from ray_diffusion import config, pipeline
from ray_diffusion.config import Config
from ray_diffusion.data.training_set import open_split
from ray_diffusion.errors import UsageError
from ray_diffusion.models.pixels import decode, encode
from ray_diffusion.training.loop import loop
from ray_diffusion.training.reconstruction import Reconstruction
from ray_diffusion.training.state import initial_state

CODEC = {
    "model.kind": "autoencoder",
    "model.patch_size": 2,
    "model.latent_channels": 2,
    "optim.lr": 5e-3,
}
MEASURES = {"val/score", "val/psnr", "val/ssim", "val/kl"}


@pytest.fixture(scope="module")
def codec_run(dataset: Path) -> Config:
    return configured(dataset, **CODEC)


@pytest.fixture(scope="module")
def trained(codec_run: Config, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Eighty steps in one go."""
    world = World(tmp_path_factory.mktemp("trained"))
    many = {"training.total_images": 80 * BATCH, "training.validate_every_images": 20 * BATCH}
    world.train(config.override(codec_run, many))
    return world


@pytest.fixture(scope="module")
def undisturbed(codec_run: Config, tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("undisturbed codec"))
    world.train(codec_run)
    return world


def of(world: World, name: str) -> list[float]:
    return [value for (_, metric), value in sorted(world.points.items()) if metric == name]


def test_training_brings_reconstructions_nearer(trained: World):
    assert of(trained, "val/score")[-1] < 0.7 * of(trained, "val/score")[0]
    assert of(trained, "val/psnr")[-1] > of(trained, "val/psnr")[0] + 1.5
    assert of(trained, "val/ssim")[-1] > of(trained, "val/ssim")[0]
    assert trained.losses[-1] < trained.losses[0]


def test_a_validation_tells_images_and_each_channel_of_the_latents(undisturbed: World):
    told = {name for _, name in undisturbed.points if name.startswith(("val/", "latent/"))}
    latents = {f"latent/{what}_{i}" for what in ("mean", "std", "kl") for i in range(2)}
    assert told == MEASURES | latents
    assert undisturbed.shown == [5 * BATCH, 10 * BATCH]


@pytest.mark.parametrize("call", [3, 9, 16, 23])
def test_an_autoencoder_that_is_killed_ends_as_if_undisturbed(
    codec_run: Config, undisturbed: World, world: World, call: int
):
    with pytest.raises(Killed):
        loop(codec_run, killed_at(world, call), CPU)
    world.train(codec_run)
    assert world.weights() == undisturbed.weights()
    assert world.points == undisturbed.points
    assert all(before == after for before, after in world.twice)


def test_micro_batches_and_the_whole_batch_take_the_same_step(codec_run: Config, tmp_path: Path):
    """The draws from latents belong to places of the batch, whoever holds them."""
    losses = []
    for most in (None, 5):
        world = World(tmp_path / str(most))
        world.train(config.override(codec_run, {"training.micro_batch_size": most}))
        losses.append(world.losses)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_score_is_the_mean_squared_error_of_what_it_shows(codec_run: Config):
    network = initial_state(codec_run, CPU).average
    with open_split(codec_run.data, "val") as val:
        task = Reconstruction(codec_run, CPU, val)
        found = task.validate(network)
        batch = val.read(0, len(val))
        _, became = task._reconstructed(network, batch, list(range(len(val))))
        (sheet,) = task.previews({"ema": network}, found).values()
    error = (became.x0_hat - encode(batch.images)).double().square()
    assert found.metrics["val/score"] == pytest.approx(float(error.mean()), rel=1e-6)
    psnr = -10 * error.flatten(1).mean(1).div(4).log10()
    assert found.metrics["val/psnr"] == pytest.approx(float(psnr.mean()), rel=1e-6)
    mean, variance = became.posterior.mean.double(), became.posterior.logvar.double().exp()
    for i in range(2):
        total = float(variance[:, i].mean() + mean[:, i].var(correction=0))
        assert found.metrics[f"latent/std_{i}"] == pytest.approx(math.sqrt(total), rel=1e-5)
        kl = (mean[:, i].square() + variance[:, i] - variance[:, i].log() - 1) / 2
        assert found.metrics[f"latent/kl_{i}"] == pytest.approx(float(kl.mean()), rel=1e-5)
    assert found.profile == []
    assert sheet.shape == (8 * 52, 8 * 52, 3)  # four rows of images, and below each what it became


def test_previews_show_each_image_above_what_it_became(codec_run: Config):
    network = initial_state(codec_run, CPU).average
    with open_split(codec_run.data, "val") as val:
        task = Reconstruction(codec_run, CPU, val)
        (sheet,) = task.previews({"ema": network}, task.validate(network)).values()
        positions = val.spread(32)
        batch = val.at(positions)
        _, became = task._reconstructed(network, batch, positions)
    shown = sheet[:, :, 0]
    for index, (row, column) in {0: (0, 0), 9: (2, 1)}.items():
        top, left = 52 * row + 2, 52 * column + 2
        assert shown[top : top + 48 : 6, left : left + 48 : 6].equal(batch.images[index, 0])
        below = shown[top + 52 : top + 100 : 6, left : left + 48 : 6]
        assert below.equal(decode(became.x0_hat)[index, 0])


def test_a_discriminator_learns_from_its_image_on_and_not_before(codec_run: Config, world: World):
    late = {
        "autoencoder.adversarial_weight": 0.1,
        "autoencoder.adversarial_from_images": 5 * BATCH,
        "training.checkpoint_every_images": BATCH,
        "optim.weight_decay": 0.0,
    }
    run = config.override(codec_run, late)
    weights = {}
    for steps in (5, 6):
        world.train(config.override(run, {"training.total_images": steps * BATCH}))
        network = initial_state(run, CPU).network
        begun = {n: p for n, p in network.named_parameters() if n.startswith("discriminator")}
        kept = pipeline_weights(world)
        weights[steps] = all(kept[name].equal(value) for name, value in begun.items())
    assert weights == {5: True, 6: False}


def pipeline_weights(world: World) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(world.path / world.run.names()[-1] / "model.safetensors")


def test_a_trained_autoencoder_is_a_codec(trained: World, codec_run: Config):
    codec = pipeline.load_codec(str(trained.path))
    assert (codec.image_channels, codec.latent_channels, codec.factor) == (1, 2, 2)
    with open_split(codec_run.data, "val") as val:
        x0 = encode(val.read(0, 64).images)
    error = (codec.decode(codec.encode(x0).mean) - x0).square().mean()
    assert float(error) == pytest.approx(of(trained, "val/score")[-1], rel=0.3)
    assert not any(parameter.requires_grad for parameter in codec.parameters())


def test_an_autoencoder_draws_nothing_and_a_denoiser_is_no_codec(
    trained: World, run: Config, world: World
):
    with pytest.raises(UsageError, match=r"is an autoencoder, which draws nothing"):
        pipeline.load(str(trained.path))
    world.train(run, stop_after=None)
    with pytest.raises(UsageError, match=r"is no autoencoder but a unet"):
        pipeline.load_codec(str(world.path))


def test_a_perceptual_distance_counts_from_its_file_on(
    codec_run: Config, tmp_path: Path, world: World, undisturbed: World
):
    class Twice(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return 2 * (a - b).abs().mean((1, 2, 3))

    file = tmp_path / "distance.pt"
    with warnings.catch_warnings(action="ignore"):  # of torch.jit, which users have files of
        torch.jit.script(Twice()).save(str(file))
    world.train(config.override(codec_run, {"autoencoder.perceptual_url": str(file)}))
    assert world.losses[0] > undisturbed.losses[0] + 0.1
    absent = {"autoencoder.perceptual_url": str(tmp_path / "none.pt")}
    with pytest.raises(UsageError, match=r"there is no file .*none\.pt"):
        World(tmp_path / "other").train(config.override(codec_run, absent))
