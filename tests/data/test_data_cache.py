import fcntl
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tiny_dataset
from cached_shards import Dataset3, Play, cached, content_of, name_of, opened, stored
from tiny_dataset import PLENTY, SIDE, numbered

from ray_diffusion.data import cache as cache_module
from ray_diffusion.data.cache import LOCKS, CacheFull, ShardCache
from ray_diffusion.data.reader import Dataset
from ray_diffusion.errors import DataError
from ray_diffusion.storage import Directory


def is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def taken(cache: Path) -> int:
    """Bytes of all files of a cache, those on their way counted in full."""
    with (cache / "shards" / "evict.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # nothing comes or goes meanwhile
        sizes = [path.stat().st_size for path in cached(cache)]
        coming = [int(path.stem.split("-")[1]) for path in (cache / "shards").glob("*.part")]
    return sum(sizes) + sum(coming)


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
