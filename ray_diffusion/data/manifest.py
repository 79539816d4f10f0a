"""What a dataset holds: its shards, classes and statistics, and one fingerprint of it all."""

import hashlib
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ray_diffusion.errors import DataError, StorageError, warn
from ray_diffusion.storage import MANIFEST, Directory, make_cache_dir

VERSION = 2
TABLE_FROM = 100_000  # shards; so many in JSON would take a reader several seconds


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
class Latents:
    """What a dataset of latents holds in the place of images.

    Attributes:
        codec: Fingerprint of the codec that encoded it; the codec is in the folder of that name
            in the dataset, sealed.
        channels: Of a latent.
        size: Side of a latent.
        moments: 1: means alone; 2: means and log-variances.
        mirrored: Whether each example has a second variant, the latent of its mirror image.
        mean: Mean of each channel over the train split, all variants.
        std: Standard deviation of each channel, likewise, of draws where there are variances.
        images_url: The dataset that was encoded: absolute, or ``builtin:NAME``.
        images: Its fingerprint.
    """

    codec: str
    channels: int
    size: int
    moments: int
    mirrored: bool
    mean: list[float]
    std: list[float]
    images_url: str
    images: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an example: ``(variants, moments, channels, size, size)``."""
        return (1 + self.mirrored, self.moments, self.channels, self.size, self.size)


@dataclass(frozen=True)
class Manifest:
    """What a dataset holds: images, or latents in their place.

    What it says of images holds for those that latents were made of.

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
        latents: What is there in the place of images; None: the images themselves.
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
    latents: Latents | None = None

    @property
    def fingerprint(self) -> str:
        """Digest of all that training can see; equal fingerprints mean equal bytes.

        Not of where the images came from: a copied folder makes the same dataset.
        """
        seen = {k: v for k, v in self._fields().items() if k not in ("rejected", "packer")}
        if self.latents is not None:
            seen["latents"] = {k: v for k, v in seen["latents"].items() if k != "images_url"}
        canonical = json.dumps(seen, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @property
    def example_bytes(self) -> int:
        """Memory that an example takes once it is decoded: uint8 pixels, or float16 latents."""
        if self.latents is not None:
            return 2 * math.prod(self.latents.shape)
        return self.channels * self.image_size**2

    def examples(self, split: str) -> int:
        """How many examples a split has."""
        return sum(shard.examples for shard in self.splits.get(split, ()))

    def write(self, directory: Directory) -> None:
        """Make a directory a dataset. Whatever else belongs to it must be there already.

        Args:
            directory: Holds the shards.

        Raises:
            StorageError: If it cannot be written.
        """
        fields = {"version": VERSION, "fingerprint": self.fingerprint} | self._fields()
        if sum(map(len, self.splits.values())) >= TABLE_FROM:
            table = f"shards-{self.fingerprint}.parquet"
            directory.write(table, _to_table(self.splits))
            fields["splits"] = table
        directory.write(MANIFEST, json.dumps(fields, indent=1))

    def _fields(self) -> dict[str, Any]:
        splits = {split: [vars(shard) for shard in found] for split, found in self.splits.items()}
        fields = vars(self) | {"splits": splits}
        if self.latents is not None:
            return fields | {"latents": vars(self.latents)}
        del fields["latents"]  # so that a dataset of images says what it always said
        return fields


def _to_table(splits: dict[str, tuple[Shard, ...]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    rows = [{"split": split} | vars(shard) for split, found in splits.items() for shard in found]
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file, compression="zstd")
    return file.getvalue()


def _from_table(content: bytes) -> Iterator[tuple[str, Shard]]:
    import pyarrow.parquet

    columns = pyarrow.parquet.read_table(io.BytesIO(content)).to_pydict()
    splits = columns.pop("split")
    for split, *values in zip(splits, *columns.values(), strict=True):
        yield split, Shard(**dict(zip(columns, values, strict=True)))


def _content(directory: Directory, name: str) -> bytes | None:
    """What ``Directory.read`` gives; while the storage cannot be read, what it gave the last time.

    So a run whose shards are all in the cache of this machine needs no storage.
    """
    if directory.local_path() is not None:
        return directory.read(name)
    seen = Directory(str(make_cache_dir("manifests")))
    entry = f"{hashlib.sha256(directory.url.encode()).hexdigest()[:16]}-{name}"
    try:
        content = directory.read(name)
    except StorageError as error:
        content = seen.read(entry)
        if content is None:
            raise
        warn(f"{error}; going on with {name} as it was when last read")
        return content
    if content is not None:
        seen.write(entry, content)
    return content


def _splits(directory: Directory, found: Any) -> dict[str, tuple[Shard, ...]]:
    """The shards of each split, from where the manifest holds them or the table that it names."""
    if not isinstance(found, str):
        return {split: tuple(Shard(**one) for one in shards) for split, shards in found.items()}
    content = _content(directory, found)
    if content is None:
        raise DataError(f"{directory.url} lacks {found}, which its {MANIFEST} names")
    splits: dict[str, list[Shard]] = {}
    for split, shard in _from_table(content):
        splits.setdefault(split, []).append(shard)
    return {split: tuple(shards) for split, shards in splits.items()}


def read_manifest(url: str) -> Manifest:
    """Read what a dataset holds.

    Args:
        url: Where the dataset is.

    Returns:
        The manifest.

    Raises:
        DataError: If there is none, or it is damaged or of another version.
        StorageError: If the storage cannot be read, and never was from this machine.
    """
    directory = Directory(url)
    content = _content(directory, MANIFEST)
    if content is None:
        raise DataError(
            f"{directory.url} is not a dataset: it has no {MANIFEST}; "
            "make one with `python -m ray_diffusion.pack source=builtin:digits out=URL`, "
            "or one of latents with `python -m ray_diffusion.encode`"
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
        fields["splits"] = _splits(directory, fields["splits"])
        if "latents" in fields:
            fields["latents"] = Latents(**fields["latents"])
        manifest = Manifest(**fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{directory.url}/{MANIFEST} is damaged: {error}") from error
    if manifest.fingerprint != fingerprint:
        raise DataError(f"{directory.url}/{MANIFEST} was changed: its fingerprint does not match")
    return manifest
