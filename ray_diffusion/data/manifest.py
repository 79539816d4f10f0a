"""What a dataset holds: its shards, classes and statistics, and one fingerprint of it all."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from ray_diffusion.errors import DataError
from ray_diffusion.storage import MANIFEST, Directory

VERSION = 1


@dataclass(frozen=True)
class Shard:
    """One tar file of a split.

    Attributes:
        name: File name within the dataset.
        examples: How many examples it holds.
        bytes: Its size.
        crc32: Checked whenever the shard is opened.
        sha256: Checked by whoever doubts the CRC.
    """

    name: str
    examples: int
    bytes: int
    crc32: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a dataset holds.

    Attributes:
        image_size: Side of the square images, pixels.
        channels: 1 for grey, 3 for colour.
        classes: Name of each class, by label; empty without labels.
        splits: Shards of each split, in order.
        class_counts: Examples of each class, by split.
        channel_mean: Mean of each channel over the train split, in [0, 1].
        channel_std: Standard deviation of each channel, likewise.
        rejected: How many source images were left out, by reason.
        packer: What the packer was asked for.
    """

    image_size: int
    channels: int
    classes: tuple[str, ...]
    splits: dict[str, tuple[Shard, ...]]
    class_counts: dict[str, list[int]]
    channel_mean: list[float]
    channel_std: list[float]
    rejected: dict[str, int]
    packer: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Digest of all that the manifest says; equal fingerprints mean equal bytes."""
        canonical = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def examples(self, split: str) -> int:
        """How many examples a split has."""
        return sum(shard.examples for shard in self.splits.get(split, ()))

    def to_json(self) -> str:
        """The content of ``manifest.json``."""
        head = {"version": VERSION, "fingerprint": self.fingerprint}
        return json.dumps(head | asdict(self), indent=1)


def read_manifest(url: str) -> Manifest:
    """Read what a dataset holds.

    Args:
        url: Where the dataset is.

    Returns:
        The manifest.

    Raises:
        DataError: If there is none, or it is damaged or of another version.
        StorageError: If the storage cannot be read.
    """
    directory = Directory(url)
    content = directory.read(MANIFEST)
    if content is None:
        raise DataError(
            f"{directory.url} is not a dataset: it has no {MANIFEST}; "
            "make one with `python -m ray_diffusion.pack source=builtin:digits out=URL`"
        )
    try:
        fields = json.loads(content)
        version, fingerprint = fields.pop("version"), fields.pop("fingerprint")
        if version != VERSION:
            raise DataError(
                f"{directory.url}/{MANIFEST} has version {version}, this program reads {VERSION}; "
                "pack the dataset again"
            )
        fields["classes"] = tuple(fields["classes"])
        fields["splits"] = {
            split: tuple(Shard(**shard) for shard in shards)
            for split, shards in fields["splits"].items()
        }
        manifest = Manifest(**fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{directory.url}/{MANIFEST} is damaged: {error}") from error
    if manifest.fingerprint != fingerprint:
        raise DataError(f"{directory.url}/{MANIFEST} was changed: its fingerprint does not match")
    return manifest
