from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
from cached_shards import Dataset3, stored
from scripted_storage import Script, ScriptedFileSystem, as_usual

from ray_diffusion.data import cache as cache_module
from ray_diffusion.storage import Directory


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's cache is; tries to fill it follow each other at once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache_module, "FIRST_WAIT_S", 0)
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


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Script], list[str]]:
    """Says what downloads from ``scripted://`` do; returns the growing list of their names."""
    monkeypatch.setattr(ScriptedFileSystem, "downloads", [])

    def play(script: Script = as_usual) -> list[str]:
        monkeypatch.setattr(ScriptedFileSystem, "script", staticmethod(script))
        return ScriptedFileSystem.downloads

    play()
    return play


@pytest.fixture
def three(remote: str) -> Dataset3:
    """Three remote shards of equal size."""
    return stored(remote, [2, 2, 2])


@pytest.fixture
def tricky(remote: str, three: Dataset3) -> Dataset3:
    """The same shards through a storage that does as a test says."""
    return Directory(remote.replace("memory://", "scripted://")), three[1]
