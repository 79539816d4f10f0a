"""The third stage: render the images of one shard and publish it as one object."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ray_diffusion.data.decode import CAPTION, LABEL
from ray_diffusion.data.manifest import Shard
from ray_diffusion.data.packing.files import described
from ray_diffusion.data.packing.images import Finding, Rendered, render
from ray_diffusion.data.packing.moments import Moments
from ray_diffusion.data.packing.recipe import Recipe
from ray_diffusion.data.packing.source import Record
from ray_diffusion.errors import DataError
from ray_diffusion.storage import Directory, explained


class ShardTask(NamedTuple):
    """One shard to write.

    Attributes:
        split: Which it belongs to.
        number: Its place in the split.
        records: Its examples, in their order.
        findings: What each image is.
        load: The source's.
        recipe: How images are rendered, every choice made.
        image_size: Side, pixels.
        channels: 1 for grey, 3 for colour.
        num_classes: 0 without labels.
        out: The dataset's URL.
    """

    split: str
    number: int
    records: Sequence[Record]
    findings: Sequence[Finding]
    load: Callable[[Record], bytes]
    recipe: Recipe
    image_size: int
    channels: int
    num_classes: int
    out: str

    @property
    def name(self) -> str:
        """Unique within the dataset."""
        return f"{self.split}-{self.number:06d}"


@dataclass(frozen=True)
class Written:
    """A shard that is in place.

    Attributes:
        shard: What the manifest says of it.
        class_counts: Its examples of each class.
        moments: Of its pixels.
    """

    shard: Shard
    class_counts: list[int]
    moments: Moments


def write_shard(task: ShardTask) -> Written:
    """Write one shard; equal tasks write equal bytes under equal names.

    Raises:
        DataError: If an image is no longer what it was when it was looked at.
        StorageError: If an image cannot be read, or the shard not be written.
    """
    moments, counts, examples = Moments.none(task.channels), [0] * task.num_classes, []
    for record, image in rendered(task):
        moments += Moments.of(image.pixels)
        if record.label is not None:
            counts[record.label] += 1
        examples.append(_files(record, image))
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "shard.tar")
        _write_tar(path, examples)
        shard = described(path, "", len(examples))
        shard = replace(shard, name=f"{task.name}-{shard.sha256[:8]}.tar")
        Directory(task.out).put(path, shard.name)
    return Written(shard, counts, moments)


def rendered(task: ShardTask) -> Iterator[tuple[Record, Rendered]]:
    """The examples of a shard, each as its record and image.

    Raises:
        DataError: If an image is no longer what it was when it was looked at.
        StorageError: If an image cannot be read.
    """
    for record, finding in zip(task.records, task.findings, strict=True):
        content = task.load(record)
        try:
            image = render(content, finding, task.recipe, task.image_size, task.channels)
        except Exception as error:  # decoders raise errors of any class
            raise DataError(
                f"image '{record.key}' changed while it was packed: {error}; start again"
            ) from error
        yield record, image


def _files(record: Record, image: Rendered) -> dict[str, str | bytes]:
    files: dict[str, str | bytes] = {"__key__": record.key, image.extension: image.content}
    if record.label is not None:
        files[LABEL] = str(record.label).encode()
    if record.caption is not None:
        files[CAPTION] = record.caption.encode()
    return files


def _write_tar(path: Path, examples: Iterable[dict[str, str | bytes]]) -> None:
    from webdataset import TarWriter  # slow, and needed by packing alone

    with explained("write", str(path)), path.open("wb") as file, TarWriter(file, mtime=0) as tar:
        for files in examples:
            tar.write(files)


def restored(note: Any, sizes: Mapping[str, int]) -> Written | None:
    """The shard that a note stands for, if it is still in place.

    Args:
        note: A ``Written`` as JSON has it.
        sizes: Bytes of each file that the dataset's directory holds.
    """
    written = Written(Shard(**note["shard"]), note["class_counts"], Moments(**note["moments"]))
    return written if sizes.get(written.shard.name) == written.shard.bytes else None
