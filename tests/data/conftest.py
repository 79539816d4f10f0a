from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's cache is."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ray_diffusion"


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[str]:
    """A place in a storage that is no file system."""
    yield f"memory://data-tests/{tmp_path.name}"
    memory = fsspec.filesystem("memory")
    if memory.exists("/data-tests"):
        memory.rm("/data-tests", recursive=True)


@pytest.fixture(params=["local", "remote"])
def url(request: pytest.FixtureRequest, tmp_path: Path, remote: str) -> str:
    """A place for a dataset, on this machine and elsewhere."""
    return remote if request.param == "remote" else str(tmp_path / "dataset")
