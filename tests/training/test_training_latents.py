"""Runs on latents: their images come back to the byte, and they resume to the bit."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toy import BATCH, CPU, Killed, World, configured, killed_at

from ray_diffusion import config, pipeline
from ray_diffusion.cluster.encoding import ShardEncoder
from ray_diffusion.cluster.latents import keep_codec
from ray_diffusion.config import Config
from ray_diffusion.data.manifest import read_manifest
from ray_diffusion.data.packing.encode import encode
from ray_diffusion.data.reader import Batch
from ray_diffusion.data.stream import Stream
from ray_diffusion.data.training_set import open_split, open_training_set
from ray_diffusion.diffusion.random import Draws
from ray_diffusion.models.codecs.autoencoder import Autoencoder
from ray_diffusion.models.codecs.block_dct import BlockDct
from ray_diffusion.models.codecs.codec import Codec
from ray_diffusion.models.codecs.space import LatentSpace
from ray_diffusion.storage import Directory
from ray_diffusion.training.denoising import Denoising
from ray_diffusion.training.latents import latents_of, space_of
from ray_diffusion.training.loop import loop
from ray_diffusion.training.state import initial_state


def with_a_variance() -> Codec:
    """An autoencoder that nobody trained, whose latents are as wide as their means."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        codec = Autoencoder(1, 2, 8, [1], 1, 2).eval().requires_grad_(False)
    moments = codec.encoder[-1]
    assert isinstance(moments, torch.nn.Conv2d)
    assert moments.bias is not None
    moments.bias[2:] = -1
    return codec


CODECS: dict[str, Callable[[], Codec]] = {
    "block-dct": partial(BlockDct, 1, 2, 4),
    "autoencoder": with_a_variance,
}


@pytest.fixture(scope="module")
def latents(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The stripes as latents of each codec, with those of their mirror images."""
    found = {}
    for name, codec in CODECS.items():
        out = tmp_path_factory.mktemp(name)
        encode(str(dataset), ShardEncoder(codec(), Directory(str(out))), str(out), mirrored=True)
        found[name] = out
    return found


def on(url: Path, **keys: object) -> Config:
    """A run on latents, with what a launch would have found in them."""
    said = read_manifest(str(url)).latents
    assert said is not None
    found = {
        "data.codec": said.codec,
        "data.latent_size": said.size,
        "model.image_channels": said.channels,
    }
    return configured(url, **found | keys)


@pytest.fixture(scope="module", params=CODECS)
def latent_run(request: pytest.FixtureRequest, latents: dict[str, Path]) -> Config:
    return on(latents[request.param], **{"data.horizontal_flip": True})


@pytest.fixture(scope="module")
def undisturbed(latent_run: Config, tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("undisturbed latents"))
    world.train(latent_run)
    return world


def nothing_drawn(*shape: int) -> Tensor:
    raise AssertionError("these latents have no variance")


# What is read


@pytest.mark.parametrize("split", ["train", "val"])
def test_latents_that_lose_nothing_decode_to_the_very_images(
    dataset: Path, latents: dict[str, Path], split: str
):
    with (
        open_split(configured(dataset).data, split) as images,
        open_split(on(latents["block-dct"]).data, split) as of_them,
    ):
        wanted, read = (one.read(0, len(one)) for one in (images, of_them))
        space = space_of(of_them)
    x0 = space.x0(read.images, nothing_drawn)
    assert x0.shape == (len(wanted.images), 4, 4, 4)
    assert space.images(x0).equal(wanted.images)
    assert space.encode(wanted.images).sub(x0).abs().max() < 0.02  # float16, and deviations below 1
    assert read.labels.equal(wanted.labels)


def test_a_stream_of_latents_decodes_to_the_stream_of_images(
    dataset: Path, latents: dict[str, Path]
):
    """Order and mirror images are the same, so a run on latents sees what one on pixels would."""

    def first(data: config.schema.Data, mirror: bool) -> list[Batch]:
        stream = Stream(open_training_set(data), seed=1, consumed=0, batch=BATCH, mirror=mirror)
        return list(islice(stream, 11))  # more than an epoch

    run, images = on(latents["block-dct"]).data, configured(dataset).data
    space, turned = space_of(open_split(run, "val")), 0
    for ours, theirs, plain in zip(
        first(run, True), first(images, True), first(images, False), strict=True
    ):
        assert ours.positions.tolist() == theirs.positions.tolist()
        assert ours.labels.equal(theirs.labels)
        assert space.images(space.x0(ours.images, nothing_drawn)).equal(theirs.images)
        turned += int((theirs.images != plain.images).flatten(1).any(1).sum())
    assert BATCH < turned < 10 * BATCH


@pytest.mark.parametrize("kind", CODECS)
def test_what_is_trained_on_has_mean_0_and_deviation_1_in_each_channel(
    latents: dict[str, Path], kind: str
):
    with open_split(on(latents[kind]).data, "train") as train:
        read, space = train.read(0, len(train)).images, space_of(train)
        draws = Draws("test", places=range(len(train)))
        x0 = torch.cat([space.x0(read, draws.normal) for _ in range(20)])
    # The statistics count mirror images in, which are not read here.
    assert x0.mean((0, 2, 3)).abs().max() < 0.2
    assert x0.std((0, 2, 3)).sub(1).abs().max() < 0.1


# What is drawn


class Watched(LatentSpace):
    """A space that keeps the noise it asked for."""

    drawn: Tensor

    def x0(self, read: Tensor, noise: Callable[..., Tensor]) -> Tensor:
        def kept(*shape: int) -> Tensor:
            self.drawn = noise(*shape)
            return self.drawn

        return super().x0(read, kept)


@pytest.fixture
def drawn(latents: dict[str, Path]) -> Iterator[Callable[..., Tensor]]:
    """The noise that latents of a batch are drawn with."""
    url = latents["autoencoder"]
    run = on(url)
    network = initial_state(run, CPU).network
    with open_split(run.data, "val") as val:
        batch, said = val.read(0, 50), val.manifest.latents
        assert said is not None
        whole = latents_of(val.url, said)
        space = Watched(said.mean, said.std, lambda: whole.codec)

        def drawn(places: range = range(50), images_seen: int = 0, **keys: object) -> Tensor:
            task = Denoising(config.override(run, dict(keys)), CPU, val, space)
            with torch.no_grad():
                task.losses(
                    network, batch.at(slice(places.start, places.stop)), places, images_seen
                )
            return space.drawn

        yield drawn


def test_draws_from_latents_are_named_by_seed_images_seen_and_place(drawn: Callable[..., Tensor]):
    whole = drawn()
    assert whole.shape == (50, 2, 4, 4)
    assert len(whole.flatten(1).unique(dim=0)) == 50
    parts = [range(7), range(7, 40), range(40, 50)]
    assert torch.cat([drawn(places) for places in parts]).equal(whole)
    for other in (drawn(images_seen=BATCH), drawn(**{"run.seed": 1})):
        assert not other.eq(whole).any()


def test_draws_from_latents_are_none_of_the_noise_that_the_network_takes_off(
    drawn: Callable[..., Tensor],
):
    noise = Draws("step", 0, 0, places=range(50)).normal(2, 4, 4)
    assert not drawn().eq(noise).any()


def test_validations_draw_the_same_latents_each_time(latent_run: Config):
    network = initial_state(latent_run, CPU).average
    with open_split(latent_run.data, "val") as val:
        task = Denoising(latent_run, CPU, val, space_of(val))
        assert task.validate(network) == task.validate(network)


# Runs


@pytest.mark.parametrize("call", [3, 16, 27])
def test_a_run_on_latents_that_is_killed_ends_as_if_undisturbed(
    latent_run: Config, undisturbed: World, world: World, call: int
):
    with pytest.raises(Killed):
        loop(latent_run, killed_at(world, call), CPU)
    world.train(latent_run)
    assert world.weights() == undisturbed.weights()
    assert world.points == undisturbed.points
    assert all(before == after for before, after in world.twice)


def test_micro_batches_do_not_change_losses_and_another_seed_does(
    latent_run: Config, undisturbed: World, tmp_path: Path
):
    def losses(**keys: object) -> list[float]:
        world = World(tmp_path / "-".join(map(str, keys.values())))
        world.train(config.override(latent_run, dict(keys)))
        return world.losses

    small = losses(**{"training.micro_batch_size": 5})
    assert small[:2] == pytest.approx(undisturbed.losses[:2], rel=1e-5)
    assert small == pytest.approx(undisturbed.losses, rel=1e-3)
    other = losses(**{"run.seed": 1})
    assert not set(other) & set(undisturbed.losses)


def test_a_trained_run_draws_images(latent_run: Config, undisturbed: World):
    keep_codec(latent_run, undisturbed.run)
    drawer = pipeline.load(str(undisturbed.path))
    images = drawer.draw(drawer.labels(20), seed=0)
    assert drawer.image_shape == (1, 8, 8)
    assert (images.shape, images.dtype) == ((20, 1, 8, 8), torch.uint8)
    assert len(images.flatten(1).unique(dim=0)) == 20
    assert undisturbed.shown == [5 * BATCH, 10 * BATCH]
