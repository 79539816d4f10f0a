"""Shards of a dataset elsewhere, as they are cached and opened."""

import os
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import tiny_dataset
from tiny_dataset import numbered

from ray_diffusion.data.cache import ShardCache
from ray_diffusion.data.manifest import Shard
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


def name_of(shard: Shard) -> str:
    return f"{shard.crc32:08x}-{shard.bytes}.tar"


def stored(url: str, sizes: list[int]) -> Dataset3:
    return Directory(url), list(tiny_dataset.write(url, numbered(sizes)).splits["train"])
