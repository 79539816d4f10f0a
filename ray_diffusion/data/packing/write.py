"""The third stage: render the images of one shard and publish it as one object."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ray_diffusion.data.decode import CAPTION, LABEL
from ray_diffusion.data.manifest import Shard
from ray_diffusion.data.packing.images import Finding, Rendered, render
from ray_diffusion.data.packing.moments import Moments
from ray_diffusion.data.packing.output import Files, publish_shard
from ray_diffusion.data.packing.recipe import Recipe
from ray_diffusion.data.packing.source import Record
from ray_diffusion.errors import DataError
from ray_diffusion.storage import Directory


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
    return Written(publish_shard(examples, task.name, Directory(task.out)), counts, moments)


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


def _files(record: Record, image: Rendered) -> Files:
    files: Files = {"__key__": record.key, image.extension: image.content}
    if record.label is not None:
        files[LABEL] = str(record.label).encode()
    if record.caption is not None:
        files[CAPTION] = record.caption.encode()
    return files


def restored(note: Any, sizes: Mapping[str, int]) -> Written | None:
    """The shard that a note stands for, if it is still in place.

    Args:
        note: A ``Written`` as JSON has it.
        sizes: Bytes of each file that the dataset's directory holds.
    """
    written = Written(Shard(**note["shard"]), note["class_counts"], Moments(**note["moments"]))
    return written if sizes.get(written.shard.name) == written.shard.bytes else None
