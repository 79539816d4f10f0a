"""Webdataset shards of any origin become a dataset where they lie, by a manifest alone."""

import hashlib
import re
from collections.abc import Mapping, Sequence

from ray_diffusion.data.decode import LABEL
from ray_diffusion.data.manifest import Manifest
from ray_diffusion.data.packing.moments import Moments
from ray_diffusion.data.packing.records import SPLIT_WORDS
from ray_diffusion.data.packing.scan import Scan, ScanTask, scan
from ray_diffusion.data.packing.stages import Progress, Runner, counted, silent
from ray_diffusion.errors import DataError, UsageError
from ray_diffusion.storage import MANIFEST, Directory

VERSION = 1  # raise it when the same shards come to have another manifest
CHANNELS = {"L": 1, "RGB": 3}  # what a dataset's images may be


def index(
    url: str,
    val_fraction: float,
    run: Runner = map,
    progress: Progress = silent,
    overwrite: bool = False,
) -> Manifest:
    """Make a dataset of the webdataset shards in a directory; they stay as they are.

    A shard's name says its split (``train-...``, ``val-...``, ``test-...``). Where none is for
    validation, whole shards are taken for it by a hash of their names.

    Args:
        url: The directory; its ``.tar`` files may also lie in folders.
        val_fraction: Share of the shards that is kept for validation, if none is said to be; at
            least one, unless it is 0.
        run: Does one task for each shard.
        progress: Is told how many are done.
        overwrite: Whether a manifest that is there is replaced.

    Returns:
        The manifest, which is in place.

    Raises:
        UsageError: If there is a manifest.
        DataError: If the shards are no dataset.
        StorageError: If they cannot be read, or the manifest cannot be written.
    """
    directory = Directory(url)
    if not overwrite and directory.read(MANIFEST) is not None:
        raise UsageError(f"{directory.url} has a {MANIFEST} already; replace it by overwrite=true")
    names = [file.name for file in directory.walk() if file.name.endswith(".tar")]
    if not names:
        raise DataError(f"{directory.url} holds no .tar files")
    split_of = _splits(names, val_fraction, directory.url)
    tasks = [ScanTask(directory.url, name) for name in names]
    scans = list(counted("indexed", run(scan, tasks), [1] * len(tasks), progress))
    manifest = _manifest(scans, split_of, val_fraction, directory.url)
    manifest.write(directory)
    return manifest


def _splits(names: Sequence[str], val_fraction: float, url: str) -> dict[str, str]:
    """The split of each shard."""
    said = {name: re.match("[a-z]*", name.lower()) for name in names}
    split_of = {
        name: SPLIT_WORDS.get(word[0] if word else "", "train") for name, word in said.items()
    }
    train = [name for name in names if split_of[name] == "train"]
    if not train:
        raise DataError(f"{url} holds shards for validation or tests alone, none to train on")
    if "val" in split_of.values() or not val_fraction:
        return split_of
    if len(train) == 1:
        raise DataError(
            f"{url} has one shard, and validation takes whole ones: {_repack(url)}, or index it "
            "with val_fraction=0"
        )
    drawn = sorted(train, key=_position)
    count = sum(_position(name) < val_fraction for name in train)
    held_out = drawn[: min(max(count, 1), len(train) - 1)]
    return split_of | dict.fromkeys(held_out, "val")


def _position(name: str) -> float:
    """Where in [0, 1) a hash puts a shard's name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64


def _manifest(
    scans: Sequence[Scan], split_of: Mapping[str, str], val_fraction: float, url: str
) -> Manifest:
    side, channels = _common_format(scans, url)
    classes = _classes(scans)
    by_split: dict[str, list[Scan]] = {}
    for found in scans:
        by_split.setdefault(split_of[found.shard.name], []).append(found)
    train = [moments for found in by_split["train"] for moments in found.moments.values()]
    in_colour = [moments.in_colour() if channels == 3 else moments for moments in train]
    moments = sum(in_colour, Moments.none(channels))
    return Manifest(
        image_size=side,
        channels=channels,
        classes=classes,
        splits={split: tuple(found.shard for found in of) for split, of in by_split.items()},
        class_counts={
            split: [sum(found.labels[label] for found in of) for label in range(len(classes))]
            for split, of in by_split.items()
        },
        channel_mean=moments.mean,
        channel_std=moments.std,
        rejected={},
        packer={"version": VERSION, "indexed": True, "val_fraction": val_fraction},
    )


def _common_format(scans: Sequence[Scan], url: str) -> tuple[int, int]:
    """Side and channels of all images; grey ones among coloured ones are read in colour."""
    formats = sorted({format for found in scans for format in found.moments})
    if not formats:
        raise DataError(f"the shards of {url} hold no examples")
    smallest, largest = (
        pick(formats, key=lambda format: format.width * format.height) for pick in (min, max)
    )
    modes = sorted({format.mode for format in formats})
    if any((f.width, f.height) != (formats[0].width, formats[0].width) for f in formats):
        raise DataError(
            f"{url}: images are from {smallest.width}x{smallest.height} to "
            f"{largest.width}x{largest.height} pixels, a dataset has squares of one size: "
            f"{_repack(url)}"
        )
    if not CHANNELS.keys() >= set(modes):
        raise DataError(
            f"{url}: images are of mode {', '.join(modes)}, a dataset's are L or RGB: "
            f"{_repack(url)}"
        )
    return formats[0].width, max(CHANNELS[mode] for mode in modes)


def _classes(scans: Sequence[Scan]) -> tuple[str, ...]:
    """Names by label: their numbers, for shards know no others."""
    labels = {label for found in scans for label in found.labels if label is not None}
    if not labels:
        return ()
    first = next((found.unlabelled for found in scans if found.unlabelled), None)
    if first is not None:
        raise DataError(f"{first} has no label ({LABEL}), others have one")
    return tuple(str(label) for label in range(max(labels) + 1))


def _repack(url: str) -> str:
    return f"re-pack with `python -m ray_diffusion.pack source={url} out=NEW image_size=64`"
