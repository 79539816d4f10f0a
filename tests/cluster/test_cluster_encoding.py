"""Encoding on Ray: the bytes of one process, whatever the number of workers."""

import shutil
from pathlib import Path

import pytest
import torch
from local_cluster import Cluster, wait_for
from tiny_config import RESOLVED, TINY

from ray_diffusion import config as configs
from ray_diffusion.data.packing.embedded import digits
from ray_diffusion.data.packing.output import NOTES
from ray_diffusion.data.packing.pack import pack
from ray_diffusion.data.packing.recipe import Recipe
from ray_diffusion.storage import MANIFEST, Directory
from ray_diffusion.training.harness import in_directory
from ray_diffusion.training.loop import loop
from ray_diffusion.training.retention import Keep

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits in 73 shards."""
    directory = tmp_path_factory.mktemp("images")
    pack(digits(None), Recipe(examples_per_shard=25), str(directory))
    return directory


@pytest.fixture(scope="module")
def codec(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an autoencoder's run of one step."""
    path = tmp_path_factory.mktemp("codec")
    keys = {"model.kind": "autoencoder", "training.total_images": 128}
    of_images = {"data.dataset_url": str(images)}
    config = configs.override(configs.load([]), {**TINY, **RESOLVED} | keys | of_images)
    loop(config, in_directory(Directory(str(path)), Keep(1)), torch.device("cpu"))
    return path


@pytest.fixture(scope="module")
def alone(
    cluster: Cluster, images: Path, codec: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """What one process writes, without Ray."""
    out = tmp_path_factory.mktemp("alone")
    done = cluster.run(*command(images, codec, out, 1))
    assert done.returncode == 0, done.stderr
    return content(out)


def command(images: Path, codec: Path, out: Path, workers: int) -> list[str]:
    words = [f"source={images}", f"codec={codec}", f"out={out}", f"workers={workers}"]
    return ["ray_diffusion.encode", *words, "horizontal_flip=true"]


def content(directory: Path) -> dict[str, bytes]:
    """All files, by their path within the directory."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_four_workers_encode_the_bytes_of_one_process(
    cluster: Cluster, images: Path, codec: Path, alone: dict[str, bytes], tmp_path: Path
):
    done = cluster.run(*command(images, codec, tmp_path, 4))
    assert done.returncode == 0, done.stderr
    assert content(tmp_path) == alone
    done = cluster.run("ray_diffusion.pack", "verify", str(tmp_path), "workers=2")
    assert done.returncode == 0, done.stderr


def test_an_encoder_on_ray_that_was_killed_is_continued_by_any_number_of_workers(
    cluster: Cluster, images: Path, codec: Path, alone: dict[str, bytes], tmp_path: Path
):
    encoding = cluster.start(*command(images, codec, tmp_path, 2))
    notes = tmp_path / NOTES
    wait_for(lambda: len(list(notes.rglob("*.json"))) >= 3, "three notes")
    encoding.kill()
    encoding.communicate()
    assert not (tmp_path / MANIFEST).exists()
    again = cluster.run(*command(images, codec, tmp_path, 1))
    assert again.returncode == 0, again.stderr
    assert content(tmp_path) == alone


def test_what_a_task_refuses_is_one_line(
    cluster: Cluster, images: Path, codec: Path, tmp_path: Path
):
    damaged = shutil.copytree(images, tmp_path / "damaged")
    shard = sorted(damaged.glob("train-*.tar"))[5]
    shard.write_bytes(shard.read_bytes()[:-1])
    done = cluster.run(*command(damaged, codec, tmp_path / "out", 2))
    assert done.returncode == 3
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert shard.name in line
    assert not (tmp_path / "out" / MANIFEST).exists()
