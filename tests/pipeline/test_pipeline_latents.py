"""Models that draw latents: their codec is found wherever they lie, and images come out."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from ray_diffusion import config as configs
from ray_diffusion import pipeline
from ray_diffusion.cluster.exported import CODEC_FILES, describe
from ray_diffusion.cluster.latents import add_codec
from ray_diffusion.data.reader import Dataset
from ray_diffusion.errors import DataError, StorageError, UsageError
from ray_diffusion.models.codecs import space as spaces
from ray_diffusion.models.codecs import stored
from ray_diffusion.models.codecs.autoencoder import Autoencoder
from ray_diffusion.models.codecs.block_dct import BlockDct
from ray_diffusion.models.codecs.space import LatentSpace
from ray_diffusion.models.draw import model_of
from ray_diffusion.pipeline import CODEC, Pipeline
from ray_diffusion.storage import MANIFEST, Directory, seal

if TYPE_CHECKING:
    from latent_run import LatentRun

pytest_plugins = ["latent_run"]


@pytest.fixture
def run(latent_run: "LatentRun", tmp_path: Path) -> Path:
    """A copy of the run that a test may damage."""
    return shutil.copytree(latent_run.run, tmp_path / "runs" / "copy")


@pytest.fixture
def exported(latent_run: "LatentRun", tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """The exported model and its tags."""
    return tmp_path / "model", latent_run.exported(tmp_path / "model")


@pytest.fixture(scope="module")
def drawer(latent_run: "LatentRun") -> Pipeline:
    return pipeline.load(str(latent_run.run))


@pytest.fixture(scope="module")
def images(latent_run: "LatentRun") -> Tensor:
    """Some digits, uint8, shape ``(4, 1, 8, 8)``."""
    with Dataset(str(latent_run.images), "val", 8, 1 << 30) as val:
        return val.read(0, 4).images


def drawn(model: Path | str) -> Tensor:
    drawer = pipeline.load(str(model))
    return drawer.draw(drawer.labels(20), seed=0)


def problem(kind: type[Exception], model: Path | str) -> str:
    with pytest.raises(kind) as error:
        pipeline.load(str(model))
    assert "\n" not in str(error.value)
    return str(error.value)


# Where the codec is


def test_run_checkpoint_and_exported_model_draw_the_same(
    latent_run: "LatentRun", exported: tuple[Path, dict[str, str]]
):
    found = drawn(latent_run.run)
    assert (found.shape, found.dtype) == ((20, 1, 8, 8), torch.uint8)
    assert len(found.flatten(1).unique(dim=0)) == 20
    assert drawn(latent_run.checkpoint).equal(found)
    assert drawn(exported[0]).equal(found)


def test_a_run_in_any_storage_is_loaded(latent_run: "LatentRun", tmp_path: Path):
    remote = Directory(f"memory://pipeline-latents/{tmp_path.name}")
    for file in latent_run.run.rglob("*"):
        if file.is_file():
            remote.put(file, str(file.relative_to(latent_run.run)))
    assert drawn(remote.url).equal(drawn(latent_run.run))
    checkpoint = f"{remote.url}/{latent_run.checkpoint.name}"
    assert drawn(checkpoint).equal(drawn(latent_run.run))
    remote.remove("")


def test_a_model_needs_its_dataset_no_more(exported: tuple[Path, dict[str, str]], tmp_path: Path):
    model, _ = exported
    config = configs.from_yaml((model / "config.yaml").read_text(), "here")
    gone = configs.override(config, {"data.dataset_url": f"{tmp_path}/gone"})
    wanted = drawn(model)
    (model / "config.yaml").write_text(configs.dump(gone))
    seal(model)
    assert drawn(model).equal(wanted)


def test_a_checkpoint_without_its_run_is_one_line(latent_run: "LatentRun", tmp_path: Path):
    alone = shutil.copytree(latent_run.checkpoint, tmp_path / "alone")
    assert problem(StorageError, alone) == (
        f"{alone} draws latents of {latent_run.config.data.codec}, and neither it nor its run has "
        f"that codec: {alone}/codec has no manifest.json, {tmp_path}/codec has no manifest.json"
    )


def test_a_run_with_another_codec_is_one_line(run: Path):
    wanted = json.loads((run / CODEC / stored.FILE).read_text())["fingerprint"]
    other = LatentSpace([0.0] * 4, [1.0] * 4, lambda: BlockDct(4, 1, 1))
    other.save(run / CODEC)
    seal(run / CODEC)
    found = stored.fingerprint(other.codec)
    line = f"{run}/codec is {found}, the model draws latents of {wanted}"
    assert problem(DataError, run) == line
    assert problem(DataError, next(run.glob("checkpoint-*"))) == line


def test_a_damaged_codec_is_named(run: Path):
    (run / CODEC / spaces.SCALE).write_text("damaged")
    assert f": {run}/codec has a damaged latents.json, " in problem(StorageError, run)
    (run / CODEC / MANIFEST).unlink()
    assert f": {run}/codec has no manifest.json, " in problem(StorageError, run)


def test_changed_weights_of_a_codec_are_named_where_they_are(run: Path):
    space = LatentSpace([0.0] * 2, [1.0] * 2, lambda: Autoencoder(1, 2, 8, [1], 1, 2))
    space.save(run / CODEC)
    said = json.loads((run / CODEC / stored.FILE).read_text())
    (run / CODEC / stored.FILE).write_text(json.dumps(said | {"fingerprint": "autoencoder-0"}))
    seal(run / CODEC)
    line = problem(DataError, run)
    assert line.startswith(f"{run}/codec holds codec autoencoder-")
    assert line.endswith("its codec.json says autoencoder-0: the weights were changed")


def test_a_damaged_codec_is_not_exported(latent_run: "LatentRun", run: Path, tmp_path: Path):
    (run / CODEC / stored.FILE).write_text("damaged")
    with pytest.raises(StorageError) as error:
        add_codec(latent_run.config, Directory(str(run)), tmp_path)
    assert str(error.value) == f"{run}/codec has a damaged codec.json"


# Exported models


def test_an_exported_model_holds_its_codec_and_its_tags_say_so(
    latent_run: "LatentRun", exported: tuple[Path, dict[str, str]]
):
    model, tags = exported
    own = {"config.yaml", "ema.safetensors", "profile.json", MANIFEST}
    assert {path.name for path in model.iterdir()} == own | {stored.FILE, spaces.SCALE}
    assert tags["ray_diffusion.image_shape"] == "1x8x8"  # of images, not of latents
    assert tags["data.codec"] == latent_run.config.data.codec
    assert tags["ray_diffusion.images_seen"] == "128"
    assert describe(model).items() <= tags.items()


def test_an_exported_model_is_the_same_bytes_each_time(latent_run: "LatentRun", tmp_path: Path):
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        latent_run.exported(tmp_path / name / "model")
        files = sorted((tmp_path / name / "model").iterdir())
        found.append({file.name: file.read_bytes() for file in files})
    assert found[0] == found[1]


def test_weights_of_a_codec_are_exported_with_it(run: Path, tmp_path: Path):
    codec = Autoencoder(1, 2, 8, [1], 1, 2)
    LatentSpace([0.0] * 2, [1.0] * 2, lambda: codec).save(run / CODEC)
    seal(run / CODEC)
    config = configs.override(configs.load([]), {"data.codec": stored.fingerprint(codec)})
    add_codec(config, Directory(str(run)), tmp_path)
    there = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert there == set(CODEC_FILES)
    space = spaces.load(tmp_path)
    assert isinstance(space, LatentSpace)
    assert stored.fingerprint(space.codec) == stored.fingerprint(codec)


# Drawing


def test_images_go_through_the_space_and_back(drawer: Pipeline, images: Tensor):
    assert drawer.image_shape == (1, 8, 8)
    x0 = drawer.space.encode(images)
    assert x0.shape == (4, 4, 4, 4)
    assert drawer.space.images(x0).equal(images)


def test_kept_squares_come_back_exactly_and_touched_ones_are_drawn(
    drawer: Pipeline, images: Tensor
):
    keep = torch.zeros(8, 8, dtype=torch.bool)
    keep[:4] = True
    keep[0, 7] = False  # costs the square of four pixels that it is in
    kept = keep.clone()
    kept[:2, 6:] = False
    x0, labels = drawer.space.encode(images), drawer.labels(4)
    found = drawer.inpaint(labels, 5, x0, keep.expand(4, 1, 8, 8), 2)
    assert found[..., kept].equal(images[..., kept])
    for square in (found[:, 0, :2, 6:] - images[:, 0, :2, 6:], found[:, 0, 4:] - images[:, 0, 4:]):
        assert square.flatten(1).any(1).all()


EDITS: dict[str, Callable[[Pipeline, Tensor, Tensor], Tensor]] = {
    "sdedit": lambda drawer, labels, x0: drawer.sdedit(labels, 5, x0, 0.6),
    "interpolate": lambda drawer, labels, x0: drawer.interpolate(labels, 0, 7),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edits_of_latents_make_images(drawer: Pipeline, images: Tensor, edit: str):
    found = EDITS[edit](drawer, drawer.labels(4), drawer.space.encode(images))
    assert (found.shape, found.dtype) == ((4, 1, 8, 8), torch.uint8)
    assert len(found.flatten(1).unique(dim=0)) == 4


def test_noise_of_pixels_is_not_taken_off_latents(drawer: Pipeline, images: Tensor):
    with pytest.raises(UsageError, match=r"^noise_sigma: the model draws latents, and "):
        drawer.restore(drawer.labels(4), 0, drawer.space.encode(images), 0.5)


def test_latents_are_not_clipped(drawer: Pipeline):
    model = model_of(drawer.network, drawer.config, torch.ones(4))
    clean = torch.full((4,), 10.0, dtype=torch.float64)  # logsnr: almost without noise
    found = model(torch.full((4, 4, 4, 4), 3.0), clean, drawer.labels(4)).x0
    assert found.min() > 2
