import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny_dataset
from scripted_storage import Script
from tiny_dataset import PLENTY, SIDE, numbered

from ray_diffusion.data import cache as cache_module
from ray_diffusion.data.cache import LOCKS, LONGEST_WAIT_S, TRIES, CacheFull, ShardCache
from ray_diffusion.data.manifest import Shard
from ray_diffusion.data.reader import Dataset
from ray_diffusion.errors import DataError, StorageError
from ray_diffusion.storage import Directory

Play = Callable[..., list[str]]
Dataset3 = tuple[Directory, list[Shard]]


@contextmanager
def opened(cache: ShardCache, dataset: Directory, shard: Shard):
    descriptor = cache.open(dataset, shard)
    yield descriptor
    os.close(descriptor)


def content_of(cache: ShardCache, dataset: Directory, shard: Shard) -> bytes:
    with opened(cache, dataset, shard) as descriptor:
        return os.pread(descriptor, 1 << 20, 0)


def cached(cache: Path) -> list[Path]:
    return sorted((cache / "shards").glob("*.tar"))


def is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def name_of(shard: Shard) -> str:
    return f"{shard.crc32:08x}-{shard.bytes}.tar"


def taken(cache: Path) -> int:
    """Bytes of all files of a cache, those on their way counted in full."""
    with (cache / "shards" / "evict.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # nothing comes or goes meanwhile
        sizes = [path.stat().st_size for path in cached(cache)]
        coming = [int(path.stem.split("-")[1]) for path in (cache / "shards").glob("*.part")]
    return sum(sizes) + sum(coming)


@pytest.fixture
def files() -> Callable[[], list[str]]:
    """The files that this process has open."""

    def found() -> list[str]:
        links = [f"/dev/fd/{name}" for name in os.listdir("/dev/fd")]
        return sorted(os.readlink(link) for link in links if os.path.exists(link))

    return found


def stored(url: str, sizes: list[int]) -> Dataset3:
    return Directory(url), list(tiny_dataset.write(url, numbered(sizes)).splits["train"])


@pytest.fixture
def three(remote: str) -> Dataset3:
    """Three remote shards of equal size."""
    return stored(remote, [2, 2, 2])


@pytest.fixture
def tricky(remote: str, three: Dataset3) -> Dataset3:
    """The same shards through a storage that does as a test says."""
    return Directory(remote.replace("memory://", "scripted://")), three[1]


def test_a_remote_shard_is_downloaded_once(three: Dataset3, cache: Path):
    dataset, shards = three
    content = dataset.read(shards[0].name)
    assert content_of(ShardCache(PLENTY), dataset, shards[0]) == content
    dataset.remove(shards[0].name)
    # Another process's cache finds the file of the first.
    assert content_of(ShardCache(PLENTY), dataset, shards[0]) == content
    assert [path.name for path in cached(cache)] == [name_of(shards[0])]


def test_many_threads_that_open_one_shard_download_it_once(
    tricky: Dataset3, scripted: Play, cache: Path
):
    dataset, shards = tricky
    lock, locked = cache / "shards" / f"{shards[0].crc32 % LOCKS:02x}.lock", []
    downloads = scripted(lambda *_: locked.append(is_locked(lock)))
    caches = [ShardCache(PLENTY), ShardCache(PLENTY)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: content_of(caches[i % 2], dataset, shards[0]), range(16)))
    assert downloads == [shards[0].name]
    assert locked == [True]
    assert set(found) == {dataset.read(shards[0].name)}


def test_a_local_shard_is_read_in_place(tmp_path: Path, cache: Path):
    dataset, shards = stored(str(tmp_path / "data"), [2])
    content_of(ShardCache(PLENTY), dataset, shards[0])
    content_of(ShardCache(PLENTY), Directory(f"file://{tmp_path}/data"), shards[0])
    assert not cache.exists()


def test_the_limit_is_held_and_the_longest_unused_goes_first(three: Dataset3, cache: Path):
    dataset, shards = three
    assert len({shard.bytes for shard in shards}) == 1
    found = ShardCache(2 * shards[0].bytes)
    for i, shard in enumerate(shards):
        content_of(found, dataset, shard)
        os.utime(cache / "shards" / name_of(shard), (i, i))
        assert taken(cache) <= 2 * shards[0].bytes
    assert {path.name for path in cached(cache)} == {name_of(shard) for shard in shards[1:]}


def test_use_counts_as_recent(three: Dataset3, cache: Path):
    dataset, shards = three
    found = ShardCache(2 * shards[0].bytes)
    content_of(found, dataset, shards[0])
    content_of(found, dataset, shards[1])
    for path in cached(cache):
        os.utime(path, (0, 0))
    content_of(found, dataset, shards[0])
    content_of(found, dataset, shards[2])
    assert {path.name for path in cached(cache)} == {name_of(shards[i]) for i in (0, 2)}


def test_the_limit_is_held_at_every_moment_while_threads_download(
    remote: str, cache: Path, scripted: Play
):
    _, shards = stored(remote, [2] * 12)
    dataset = Directory(remote.replace("memory://", "scripted://"))
    limit = 5 * shards[0].bytes  # each of four threads has one in use
    most: list[int] = []
    scripted(lambda *_: most.append(taken(cache)))
    found = ShardCache(limit)
    with ThreadPoolExecutor(4) as pool:
        contents = list(pool.map(lambda shard: content_of(found, dataset, shard), shards * 4))
    assert contents == [dataset.read(shard.name) for shard in shards * 4]
    assert len(most) >= len(shards)
    assert max(*most, taken(cache)) <= limit


def test_a_shard_comes_and_goes_while_nobody_else_can_open_or_count_it(
    three: Dataset3, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    dataset, shards = three
    seen = []

    def observed(change: Callable[..., None]) -> Callable[..., None]:
        def changed(path: Path, *more: Any) -> None:
            counting = is_locked(cache / "shards" / "evict.lock")
            seen.append((change.__name__, counting, is_locked(Path(path))))
            change(path, *more)

        return changed

    monkeypatch.setattr(cache_module.os, "replace", observed(os.replace))
    monkeypatch.setattr(Path, "unlink", observed(Path.unlink))
    found = ShardCache(shards[0].bytes)
    content_of(found, dataset, shards[0])
    content_of(found, dataset, shards[1])
    assert seen == [("replace", True, True), ("unlink", True, True), ("replace", True, True)]


def test_an_open_shard_is_never_evicted_by_whatever_process(three: Dataset3, cache: Path):
    dataset, shards = three
    here, elsewhere = ShardCache(shards[0].bytes), ShardCache(shards[0].bytes)
    with opened(here, dataset, shards[0]), opened(elsewhere, dataset, shards[0]):
        pass
    for holder, other in ((here, elsewhere), (elsewhere, here), (here, here)):
        with opened(holder, dataset, shards[0]):
            with pytest.raises(CacheFull) as error:
                other.open(dataset, shards[1])
            assert [path.name for path in cached(cache)] == [name_of(shards[0])]
    size = f"{shards[0].bytes:,}"
    assert str(error.value) == (
        f"no room for a shard of {size} bytes in {cache}/shards: all of its {size} bytes are in "
        f"use; raise data.cache_bytes, {size}"
    )
    content_of(here, dataset, shards[1])  # now that nobody reads the other
    assert [path.name for path in cached(cache)] == [name_of(shards[1])]


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


def test_a_whole_epoch_is_read_through_a_cache_of_four_shards(remote: str, cache: Path):
    _, shards = stored(remote, [2] * 10)
    dataset = Dataset(remote, "train", SIDE, 4 * shards[0].bytes)
    assert dataset.read(0, 20).images[:, 0, 0, 0].tolist() == list(range(1, 21))
    assert taken(cache) <= 4 * shards[0].bytes
    dataset.close()


def test_a_cache_that_holds_fewer_than_four_shards_is_refused_for_a_remote_dataset(url: str):
    shard = tiny_dataset.write(url, numbered([2])).splits["train"][0]
    if "://" not in url:
        Dataset(url, "train", SIDE, 1)  # needs none
        return
    Dataset(url, "train", SIDE, 4 * shard.bytes)
    with pytest.raises(DataError) as error:
        Dataset(url, "train", SIDE, 4 * shard.bytes - 1)
    assert str(error.value) == (
        f"data.cache_bytes={4 * shard.bytes - 1} is too small for {url}: 4 of its shards take "
        f"{4 * shard.bytes:,} bytes"
    )


def test_datasets_with_equal_shard_names_are_not_mixed_up(remote: str):
    tiny_dataset.write(f"{remote}/one", numbered([2], first=1))
    tiny_dataset.write(f"{remote}/two", numbered([2], first=11))
    for _ in range(2):
        for name, numbers in (("one", [1, 2]), ("two", [11, 12])):
            with Dataset(f"{remote}/{name}", "train", SIDE, PLENTY) as dataset:
                assert dataset.manifest.splits["train"][0].name == "train-0.tar"
                assert dataset.read(0, 2).images[:, 0, 0, 0].tolist() == numbers


def test_datasets_with_equal_shards_share_a_file(remote: str, cache: Path):
    for name in ("one", "two"):
        tiny_dataset.write(f"{remote}/{name}", numbered([2]))
        with Dataset(f"{remote}/{name}", "train", SIDE, PLENTY) as dataset:
            dataset.read(0, 1)
    assert len(cached(cache)) == 1


def test_a_file_that_the_disk_spoiled_is_downloaded_again(three: Dataset3, cache: Path):
    dataset, shards = three
    content = content_of(ShardCache(PLENTY), dataset, shards[0])
    (path,) = cached(cache)
    path.write_bytes(b"\xff" + content[1:])
    assert content_of(ShardCache(PLENTY), dataset, shards[0]) == content
    assert path.read_bytes() == content


def test_a_shard_that_goes_while_it_is_opened_is_downloaded_again(
    three: Dataset3, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    dataset, shards = three
    content_of(ShardCache(PLENTY), dataset, shards[0])
    (path,) = cached(cache)

    def evicted_first(file: Any, operation: int) -> None:
        if operation == fcntl.LOCK_SH:  # opened, and about to be locked
            monkeypatch.undo()
            path.unlink()
            monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
        lock(file, operation)

    lock = fcntl.flock
    monkeypatch.setattr(cache_module.fcntl, "flock", evicted_first)
    with opened(ShardCache(PLENTY), dataset, shards[0]) as descriptor:
        assert os.path.samestat(os.fstat(descriptor), path.stat())


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
