"""Datasets of a few 4x4 images, each of which shows which example it is."""

import hashlib
import io
import zlib
from typing import Any, NamedTuple

import numpy as np
import torch
import webdataset
from numpy.typing import NDArray
from PIL import Image

from ray_diffusion.data.corruption import CorruptPolicy
from ray_diffusion.data.locality import Locality
from ray_diffusion.data.manifest import Manifest, Shard
from ray_diffusion.data.reader import FAIL, Batch, Dataset
from ray_diffusion.data.training_set import TrainingSet
from ray_diffusion.storage import Directory

SIDE = 4
CLASSES = ("a", "b", "c")
PLENTY = 1 << 30  # bytes
Files = dict[str, bytes]  # of one example, by extension


class Seen(NamedTuple):
    """An example as it was read."""

    position: int
    number: int
    mirrored: bool
    label: int


def png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def example(number: int) -> Files:
    """An image whose left column is its number, 1 to 255, and whose rest is black."""
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    pixels[:, 0] = number
    return {"png": png(pixels), "cls": str(number % len(CLASSES)).encode()}


def numbered(sizes: list[int], first: int = 1) -> list[list[Files]]:
    """Shards of given sizes, their examples numbered on."""
    numbers = iter(range(first, 256))
    return [[example(next(numbers)) for _ in range(size)] for size in sizes]


def tar(examples: list[Files], prefix: str = "example") -> bytes:
    file = io.BytesIO()
    with webdataset.TarWriter(file, mtime=0) as writer:
        for i, files in enumerate(examples):
            writer.write({"__key__": f"{prefix}-{i}"} | files)
    return file.getvalue()


def write(
    url: str, train: list[list[Files]], val: list[list[Files]] | None = None, **manifest: Any
) -> Manifest:
    """Write a dataset whose manifest agrees with its shards, whatever those hold.

    Args:
        url: Where.
        train: The examples of each shard.
        val: Likewise; one example if None.
        manifest: What the manifest says differently.
    """
    directory = Directory(url)
    splits = {}
    for split, shards in (("train", train), ("val", numbered([1]) if val is None else val)):
        listed = []
        for number, examples in enumerate(shards):
            content, name = tar(examples), f"{split}-{number}.tar"
            directory.write(name, content)
            sha256 = hashlib.sha256(content).hexdigest()
            listed.append(Shard(name, len(examples), len(content), zlib.crc32(content), sha256))
        splits[split] = tuple(listed)
    said: dict[str, Any] = {
        "image_size": SIDE,
        "channels": 1,
        "classes": CLASSES,
        "splits": splits,
        "class_counts": {},
        "channel_mean": [0.5],
        "channel_std": [0.5],
        "rejected": {},
        "packer": {},
    }
    written = Manifest(**(said | manifest))
    written.write(directory)
    return written


def opened(
    *urls: str,
    weights: tuple[float, ...] = (),
    lanes: int = 3,
    block: int = 8,
    policy: CorruptPolicy = FAIL,
    cache_bytes: int = PLENTY,
) -> TrainingSet:
    """The train splits of datasets, in an order small enough to have several blocks a lane."""
    datasets = tuple(Dataset(url, "train", SIDE, cache_bytes, policy) for url in urls)
    localities = (Locality(lanes, block),) * len(urls)
    return TrainingSet(datasets, weights or (1.0,) * len(urls), localities)


def seen(batch: Batch) -> list[Seen]:
    """What can be told of each example of a batch."""
    left, right = batch.images[:, 0, :, 0], batch.images[:, 0, :, -1]
    numbers = torch.maximum(left, right)[:, 0]
    for image, number in zip(batch.images, numbers, strict=True):
        assert image.sum() == SIDE * int(number)
    mirrored = (right > left)[:, 0]
    columns = (batch.positions, numbers, mirrored, batch.labels)
    return [Seen(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
