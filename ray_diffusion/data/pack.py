"""Sources -> shards and manifest; the same versions of Pillow and zlib write the same bytes."""

import hashlib
import io
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from ray_diffusion.data.manifest import Manifest, Shard
from ray_diffusion.data.sources import SOURCES, Example
from ray_diffusion.storage import MANIFEST, Directory, digest


def _hash(key: str, purpose: str) -> int:
    """A 64-bit number that depends on the example's key alone."""
    return int.from_bytes(hashlib.blake2b(f"{purpose}/{key}".encode(), digest_size=8).digest())


def split(examples: Iterable[Example], val_fraction: float) -> dict[str, list[Example]]:
    """Divide examples into splits, each class in the same proportion.

    Within a class the examples whose keys hash lowest go to the validation split, so the division
    depends neither on the order of the source nor on a generator.

    Args:
        examples: All examples.
        val_fraction: Share of each class that is kept for validation, in (0, 1).

    Returns:
        ``train`` and ``val``.
    """
    by_class: dict[int, list[Example]] = defaultdict(list)
    for example in examples:
        by_class[example.label].append(example)
    splits: dict[str, list[Example]] = {"train": [], "val": []}
    for members in by_class.values():
        members.sort(key=lambda example: _hash(example.key, "split"))
        held_out = round(len(members) * val_fraction)
        splits["val"] += members[:held_out]
        splits["train"] += members[held_out:]
    return splits


def _write_shard(path: Path, examples: Iterable[Example]) -> None:
    import webdataset  # slow, and needed by packing alone

    with webdataset.TarWriter(str(path), mtime=0) as tar:
        for key, image, label in examples:
            png = io.BytesIO()
            Image.fromarray(image).save(png, "png")
            tar.write({"__key__": key, "png": png.getvalue(), "cls": str(label).encode()})


def _publish_shards(
    directory: Directory, split: str, examples: list[Example], examples_per_shard: int
) -> Iterator[Shard]:
    # Shuffled once, for good: whatever order a reader takes, shards are mixed.
    remaining = iter(sorted(examples, key=lambda example: _hash(example.key, "shuffle")))
    number = 0
    while part := list(islice(remaining, examples_per_shard)):
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch, "shard.tar")
            _write_shard(path, part)
            found = digest(path)
            name = f"{split}-{number:06d}-{str(found['sha256'])[:8]}.tar"
            directory.put(path, name)
            crc32 = zlib.crc32(path.read_bytes())
        yield Shard(name, len(part), int(found["bytes"]), crc32, str(found["sha256"]))
        number += 1


def pack(
    source: str,
    out: str,
    image_size: int,
    val_fraction: float = 0.2,
    examples_per_shard: int = 512,
) -> Manifest:
    """Write a built-in source as a dataset. The same request writes the same bytes again.

    Args:
        source: A key of ``SOURCES``.
        out: Where the dataset goes, a path or URL.
        image_size: Side of the images, pixels.
        val_fraction: Share of examples kept for validation, in (0, 1).
        examples_per_shard: Examples of each shard but the last of a split.

    Returns:
        The manifest, which is in place last of all: an interrupted packer leaves no dataset.

    Raises:
        StorageError: If ``out`` cannot be written.
    """
    classes, examples = SOURCES[source](image_size)
    by_split = split(examples, val_fraction)
    train = np.stack([example.image for example in by_split["train"]]) / 255
    pixels = train.reshape(-1, train.shape[3] if train.ndim == 4 else 1)
    directory = Directory(out)
    manifest = Manifest(
        image_size=image_size,
        channels=pixels.shape[1],
        classes=classes,
        splits={
            name: tuple(_publish_shards(directory, name, members, examples_per_shard))
            for name, members in by_split.items()
        },
        class_counts={
            name: np.bincount([e.label for e in members], minlength=len(classes)).tolist()
            for name, members in by_split.items()
        },
        channel_mean=pixels.mean(0).round(6).tolist(),
        channel_std=pixels.std(0).round(6).tolist(),
        rejected={},
        packer={"source": f"builtin:{source}", "val_fraction": val_fraction},
    )
    directory.write(MANIFEST, manifest.to_json())
    return manifest
