import os
from pathlib import Path

import pytest
import tiny_dataset
from tiny_dataset import SIDE, numbered

from ray_diffusion.data.cache import ShardCache
from ray_diffusion.data.manifest import Shard
from ray_diffusion.data.reader import Dataset
from ray_diffusion.errors import DataError, StorageError
from ray_diffusion.storage import Directory

PLENTY = 1 << 30  # bytes


def content_of(cache: ShardCache, shard: Shard) -> bytes:
    descriptor = cache.open(shard)
    try:
        return os.pread(descriptor, 1 << 20, 0)
    finally:
        os.close(descriptor)


def cached(cache: Path) -> list[Path]:
    return sorted((cache / "shards").glob("*.tar"))


@pytest.fixture
def shards(remote: str) -> list[Shard]:
    """Three remote shards of equal size."""
    return list(tiny_dataset.write(remote, numbered([2, 2, 2])).splits["train"])


def test_a_remote_shard_is_downloaded_once(remote: str, shards: list[Shard], cache: Path):
    stored = Directory(remote).read(shards[0].name)
    assert content_of(ShardCache(remote, PLENTY), shards[0]) == stored
    Directory(remote).remove(shards[0].name)
    # Another process's cache finds the file of the first.
    assert content_of(ShardCache(remote, PLENTY), shards[0]) == stored
    assert len(cached(cache)) == 1


def test_a_local_shard_is_read_in_place(tmp_path: Path, cache: Path):
    shard = tiny_dataset.write(str(tmp_path / "data"), numbered([2])).splits["train"][0]
    content_of(ShardCache(str(tmp_path / "data"), PLENTY), shard)
    content_of(ShardCache(f"file://{tmp_path}/data", PLENTY), shard)
    assert not cache.exists()


def test_the_limit_is_held_and_the_longest_unused_goes_first(
    remote: str, shards: list[Shard], cache: Path
):
    assert len({shard.bytes for shard in shards}) == 1
    limit = 2 * shards[0].bytes
    found = ShardCache(remote, limit)
    for i, shard in enumerate(shards):
        content_of(found, shard)
        for path in cached(cache):
            if f"{shard.crc32:08x}" in path.name:
                os.utime(path, (i, i))
        assert sum(path.stat().st_size for path in cached(cache)) <= limit
    names = [path.name[:8] for path in cached(cache)]
    assert names == sorted(f"{shard.crc32:08x}" for shard in shards[1:])


def test_use_counts_as_recent(remote: str, shards: list[Shard], cache: Path):
    found = ShardCache(remote, 2 * shards[0].bytes)
    content_of(found, shards[0])
    content_of(found, shards[1])
    for path in cached(cache):
        os.utime(path, (0, 0))
    content_of(found, shards[0])
    content_of(found, shards[2])
    names = {path.name[:8] for path in cached(cache)}
    assert names == {f"{shards[i].crc32:08x}" for i in (0, 2)}


def test_an_evicted_shard_stays_readable_where_it_is_open_and_is_downloaded_again(
    remote: str, shards: list[Shard], cache: Path
):
    found = ShardCache(remote, shards[0].bytes)
    stored = Directory(remote).read(shards[0].name)
    descriptor = found.open(shards[0])
    content_of(found, shards[1])
    assert [path.name[:8] for path in cached(cache)] == [f"{shards[1].crc32:08x}"]
    assert os.pread(descriptor, 1 << 20, 0) == stored
    os.close(descriptor)
    assert content_of(found, shards[0]) == stored


def test_a_whole_epoch_is_read_through_a_cache_of_one_shard(
    remote: str, shards: list[Shard], cache: Path
):
    dataset = Dataset(remote, "train", SIDE, shards[0].bytes)
    assert dataset.read(0, 6).images[:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5, 6]
    assert len(cached(cache)) == 1
    dataset.close()


def test_datasets_with_equal_shard_names_are_not_mixed_up(remote: str):
    tiny_dataset.write(f"{remote}/one", numbered([2], first=1))
    tiny_dataset.write(f"{remote}/two", numbered([2], first=11))
    for _ in range(2):
        for name, numbers in (("one", [1, 2]), ("two", [11, 12])):
            dataset = Dataset(f"{remote}/{name}", "train", SIDE, PLENTY)
            assert dataset.manifest.splits["train"][0].name == "train-0.tar"
            assert dataset.read(0, 2).images[:, 0, 0, 0].tolist() == numbers
            dataset.close()


def test_datasets_with_equal_shards_share_a_file(remote: str, cache: Path):
    for name in ("one", "two"):
        tiny_dataset.write(f"{remote}/{name}", numbered([2]))
        Dataset(f"{remote}/{name}", "train", SIDE, PLENTY).read(0, 1)
    assert len(cached(cache)) == 1


def test_a_file_that_the_disk_spoiled_is_downloaded_again(
    remote: str, shards: list[Shard], cache: Path
):
    stored = content_of(ShardCache(remote, PLENTY), shards[0])
    (path,) = cached(cache)
    path.write_bytes(b"\xff" + stored[1:])
    assert content_of(ShardCache(remote, PLENTY), shards[0]) == stored
    assert path.read_bytes() == stored


def test_a_damaged_download_never_enters_the_cache(remote: str, shards: list[Shard], cache: Path):
    stored = Directory(remote).read(shards[0].name)
    assert stored is not None
    Directory(remote).write(shards[0].name, stored[:-1] + b"\xff")
    found = ShardCache(remote, PLENTY)
    with pytest.raises(DataError, match="is damaged"):
        found.open(shards[0])
    assert [p.suffix for p in (cache / "shards").iterdir()] == [".lock"]
    Directory(remote).write(shards[0].name, stored)
    assert content_of(found, shards[0]) == stored


def test_a_missing_remote_shard_is_said_to_be_missing(remote: str, shards: list[Shard]):
    Directory(remote).remove(shards[0].name)
    with pytest.raises(DataError) as error:
        ShardCache(remote, PLENTY).open(shards[0])
    assert str(error.value) == f"shard {remote}/train-0.tar is missing"


def test_failed_opens_leave_no_file_open(tmp_path: Path, remote: str):
    for url in (remote, str(tmp_path / "data")):
        shard = tiny_dataset.write(url, numbered([2])).splits["train"][0]
        Directory(url).write(shard.name, b"damaged")
        before = len(os.listdir("/dev/fd"))
        with pytest.raises(DataError):
            ShardCache(url, PLENTY).open(shard)
        assert len(os.listdir("/dev/fd")) == before


def test_a_cache_that_cannot_be_made_is_a_storage_error(
    remote: str, shards: list[Shard], cache: Path
):
    cache.parent.write_text("a file where a directory is needed")
    with pytest.raises(StorageError, match="set XDG_CACHE_HOME"):
        ShardCache(remote, PLENTY).open(shards[0])
