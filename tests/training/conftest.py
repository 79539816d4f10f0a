from collections.abc import Iterator
from pathlib import Path

import pytest
from toy import World, configured, stripes

from ray_diffusion.config import Config
from ray_diffusion.data.packing.pack import pack
from ray_diffusion.data.packing.recipe import Recipe


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def packed(directory: Path, offset: int) -> Path:
    # Some of the images are equal, and counted on.
    pack(stripes(offset), Recipe(examples_per_shard=64, duplicates="keep"), str(directory))
    return directory


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 images to train on and 100 to validate with."""
    return packed(tmp_path_factory.mktemp("dataset"), offset=0)


@pytest.fixture(scope="session")
def other_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed(tmp_path_factory.mktemp("other dataset"), offset=1)


@pytest.fixture(scope="session")
def run(dataset: Path) -> Config:
    return configured(dataset)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "run")


@pytest.fixture(scope="module")
def undisturbed(run: Config, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Ten steps in one go: what every disturbed run must come to."""
    world = World(tmp_path_factory.mktemp("undisturbed"))
    world.train(run)
    return world
