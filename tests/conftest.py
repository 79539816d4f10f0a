"""What all tests share."""

from pathlib import Path

import pytest
import torch
from hypothesis import settings
from local_cluster import cluster, undisturbed  # noqa: F401 # fixtures
from tiny_config import RESOLVED, TINY

from ray_diffusion import config
from ray_diffusion.storage import Directory
from ray_diffusion.training.harness import in_directory
from ray_diffusion.training.loop import loop
from ray_diffusion.training.retention import Keep

settings.register_profile("no deadline", deadline=None)  # no test asserts a duration
settings.load_profile("no deadline")

ONE_STEP = {
    **TINY,
    **RESOLVED,
    "training.total_images": 128,
    "sampler.num_inference_steps": 3,
}


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """The same sums on every machine, and no slower: the tensors of tests are tiny."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of one step."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        tiny = config.override(config.load([]), ONE_STEP)
        loop(tiny, in_directory(Directory(str(path)), Keep(1)), torch.device("cpu"))
    return path


@pytest.fixture
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
