import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cached_shards import Dataset3, Play, cached, content_of, name_of, opened, stored
from scripted_storage import Script
from tiny_dataset import PLENTY

from ray_diffusion.data import cache as cache_module
from ray_diffusion.data.cache import LONGEST_WAIT_S, TRIES, CacheFull, ShardCache
from ray_diffusion.data.manifest import Shard
from ray_diffusion.errors import DataError, StorageError
from ray_diffusion.storage import Directory


@pytest.fixture
def files() -> Callable[[], list[str]]:
    """The files that this process has open."""

    def found() -> list[str]:
        links = [f"/dev/fd/{name}" for name in os.listdir("/dev/fd")]
        return sorted(os.readlink(link) for link in links if os.path.exists(link))

    return found


KILLED = """
import os, signal, sys
from fsspec.implementations.local import LocalFileSystem
from ray_diffusion.data.cache import ShardCache
from ray_diffusion.data.manifest import read_manifest
from ray_diffusion.storage import Directory

def half(self, remote, path, **options):
    with open(remote, "rb") as source, open(path, "wb") as target:
        target.write(source.read(1000))
    os.kill(os.getpid(), signal.SIGKILL)

LocalFileSystem.get_file = half
url = sys.argv[1]
ShardCache(1 << 30).open(Directory(url), read_manifest(url).splits["train"][0])
"""


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path, cache: Path):
    _, shards = stored(f"{tmp_path}/data", [2, 2])
    dataset = Directory(f"local://{tmp_path}/data")  # no path to the program: it downloads
    ended = subprocess.run([sys.executable, "-c", KILLED, dataset.url], check=False)
    assert ended.returncode == -signal.SIGKILL
    (part,) = (cache / "shards").glob("*.part")
    assert part.stat().st_size == 1000
    # Of the same shard it is overwritten; of another it goes, and counts for nothing.
    for leftover in (shards[0], shards[1]):
        for limit in (PLENTY, shards[0].bytes):
            for path in cached(cache):
                path.unlink()
            part.replace(part.with_name(name_of(leftover)).with_suffix(".part"))
            content = content_of(ShardCache(limit), dataset, shards[0])
            assert content == dataset.read(shards[0].name)
            assert [path.name for path in cached(cache)] == [name_of(shards[0])]
            assert not list((cache / "shards").glob("*.part"))
            part.write_bytes(b"half a shard")


def test_a_file_that_the_disk_spoiled_is_downloaded_again(three: Dataset3, cache: Path):
    dataset, shards = three
    content = content_of(ShardCache(PLENTY), dataset, shards[0])
    (path,) = cached(cache)
    path.write_bytes(b"\xff" + content[1:])
    assert content_of(ShardCache(PLENTY), dataset, shards[0]) == content
    assert path.read_bytes() == content


def test_a_damaged_download_never_enters_the_cache(tricky: Dataset3, cache: Path, scripted: Play):
    dataset, shards = tricky
    downloads = scripted()
    content = dataset.read(shards[0].name)
    assert content is not None
    dataset.write(shards[0].name, content[:-1] + b"\xff")
    found = ShardCache(PLENTY)
    with pytest.raises(DataError, match="is damaged"):
        found.open(dataset, shards[0])
    assert len(downloads) == TRIES  # it may have been damaged on its way
    assert {path.suffix for path in (cache / "shards").iterdir()} == {".lock"}
    dataset.write(shards[0].name, content)
    assert content_of(found, dataset, shards[0]) == content


def test_a_shard_that_comes_a_second_time_is_verified_again(three: Dataset3, cache: Path):
    dataset, shards = three
    found = ShardCache(PLENTY)
    content = content_of(found, dataset, shards[0])
    cached(cache)[0].unlink()
    dataset.write(shards[0].name, content[:-1] + b"\xff")
    with pytest.raises(DataError, match="is damaged"):
        found.open(dataset, shards[0])


def failing(times: int, error: Exception) -> Script:
    """A storage that fails some times in the middle of a download, and then works."""
    left = [error] * times

    def script(name: str, path: str) -> None:
        if left:
            Path(path).write_bytes(b"half a shard")
            raise left.pop()

    return script


BROKEN = ConnectionResetError("the peer hung up\nTraceback of a client")


@pytest.mark.parametrize("times", [1, TRIES - 1])
def test_a_storage_that_fails_now_and_then_is_asked_again(
    tricky: Dataset3, scripted: Play, times: int
):
    dataset, shards = tricky
    downloads = scripted(failing(times, BROKEN))
    assert content_of(ShardCache(PLENTY), dataset, shards[0]) == dataset.read(shards[0].name)
    assert len(downloads) == times + 1


def test_a_storage_that_keeps_failing_is_broken_in_one_line(
    tricky: Dataset3, scripted: Play, cache: Path
):
    dataset, shards = tricky
    downloads = scripted(failing(TRIES, BROKEN))
    with pytest.raises(StorageError) as error:
        ShardCache(PLENTY).open(dataset, shards[0])
    assert len(downloads) == TRIES
    assert str(error.value) == (
        f"cannot read {dataset.url}/train-0.tar: the peer hung up Traceback of a client"
    )
    assert {path.suffix for path in (cache / "shards").iterdir()} == {".lock"}


@pytest.mark.parametrize(
    "error",
    [
        PermissionError("no such key"),
        FileNotFoundError(),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
    ],
    ids=["forbidden", "missing", "disk full", "quota"],
)
def test_what_no_patience_mends_is_not_tried_again(
    tricky: Dataset3, scripted: Play, error: Exception
):
    dataset, shards = tricky
    downloads = scripted(failing(1, error))
    with pytest.raises((DataError, StorageError)) as raised:
        ShardCache(PLENTY).open(dataset, shards[0])
    assert len(downloads) == 1
    assert "\n" not in str(raised.value)
    assert f"{dataset.url}/train-0.tar" in str(raised.value)


def test_tries_are_ever_further_apart_up_to_a_limit(
    tricky: Dataset3, scripted: Play, monkeypatch: pytest.MonkeyPatch
):
    dataset, shards = tricky
    scripted(failing(TRIES, BROKEN))
    waits: list[float] = []
    monkeypatch.setattr(cache_module, "FIRST_WAIT_S", 1)
    monkeypatch.setattr(cache_module.random, "uniform", lambda low, high: (low, high))
    monkeypatch.setattr(cache_module.time, "sleep", waits.append)
    with pytest.raises(StorageError):
        ShardCache(PLENTY).open(dataset, shards[0])
    assert waits == [(0, min(LONGEST_WAIT_S, 2**i)) for i in range(TRIES - 1)]


def test_a_missing_remote_shard_is_said_to_be_missing(three: Dataset3):
    dataset, shards = three
    dataset.remove(shards[0].name)
    with pytest.raises(DataError) as error:
        ShardCache(PLENTY).open(dataset, shards[0])
    assert str(error.value) == f"shard {dataset.url}/train-0.tar is missing"


def test_neither_success_nor_failure_leaves_a_file_open(
    tmp_path: Path, remote: str, files: Callable[[], list[str]]
):
    for url in (remote, str(tmp_path / "data")):
        dataset, shards = stored(url, [2, 2])
        dataset.write(shards[1].name, b"damaged")
        before, found = files(), ShardCache(shards[0].bytes)
        with opened(found, dataset, shards[0]), pytest.raises((DataError, CacheFull)):
            found.open(dataset, shards[1])
        with pytest.raises(DataError):
            found.open(dataset, shards[1])
        assert files() == before


def test_a_cache_that_cannot_be_made_is_a_storage_error(three: Dataset3, cache: Path):
    cache.parent.write_text("a file where a directory is needed")
    with pytest.raises(StorageError, match="set XDG_CACHE_HOME"):
        ShardCache(PLENTY).open(*pair(three))


def test_a_cache_that_cannot_be_read_is_one_line(three: Dataset3, cache: Path):
    path = cache / "shards" / name_of(three[1][0])
    path.mkdir(parents=True)
    with pytest.raises(StorageError) as error:
        ShardCache(PLENTY).open(*pair(three))
    assert str(error.value) == f"cannot use {path}: Is a directory"


def pair(stored: Dataset3) -> tuple[Directory, Shard]:
    return stored[0], stored[1][0]
