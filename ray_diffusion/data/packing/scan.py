"""What a webdataset shard of any origin holds, example by example."""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ray_diffusion.data.decode import (
    IMAGE_EXTENSIONS,
    LABEL,
    SHOWN_IN_COLOUR,
    BadExample,
    opened,
    pixels,
)
from ray_diffusion.data.manifest import Shard
from ray_diffusion.data.packing.files import at_hand, class_number, described, members_of
from ray_diffusion.data.packing.moments import Moments
from ray_diffusion.data.tar import Member
from ray_diffusion.errors import DataError
from ray_diffusion.storage import Directory, explained


class ScanTask(NamedTuple):
    """One shard to look into.

    Attributes:
        url: The directory that holds it.
        name: Its name there.
    """

    url: str
    name: str


class Format(NamedTuple):
    """What an image is; ``mode`` is L or RGB where training can read it as one of them."""

    width: int
    height: int
    mode: str


@dataclass(frozen=True)
class Scan:
    """What a shard holds.

    Attributes:
        shard: What a manifest says of it.
        moments: Of the pixels, for each format of image that occurs.
        labels: Examples of each label; ``None`` counts those without one.
        unlabelled: Key of the first example without a label.
    """

    shard: Shard
    moments: dict[Format, Moments]
    labels: Counter[int | None]
    unlabelled: str | None


def scan(task: ScanTask) -> Scan:
    """Read every example of a shard.

    Raises:
        DataError: If the shard or an example cannot be read as what it should be.
        StorageError: If the storage cannot be read.
    """
    where = f"{task.url}/{task.name}"
    moments: dict[Format, Moments] = {}
    labels: Counter[int | None] = Counter()
    unlabelled = None
    with at_hand(Directory(task.url), task.name) as path:
        members = members_of(path, where)
        for member, files in _contents(path, members):
            key = f"{where}: example '{member.key}'"
            image, format = _image(files, key)
            found = Moments.of(image)
            moments[format] = moments[format] + found if format in moments else found
            label = class_number(files[LABEL], key) if LABEL in files else None
            labels[label] += 1
            if label is None and unlabelled is None:
                unlabelled = key
        return Scan(described(path, task.name, len(members)), moments, labels, unlabelled)


def _contents(path: Path, members: Sequence[Member]) -> Iterator[tuple[Member, dict[str, bytes]]]:
    with explained("read", str(path)), path.open("rb") as file:
        for member in members:
            files = {}
            for extension in {*IMAGE_EXTENSIONS, LABEL} & member.fields.keys():
                offset, size = member.fields[extension]
                file.seek(offset)
                files[extension] = file.read(size)
            yield member, files


def _image(files: Mapping[str, bytes], where: str) -> tuple[NDArray[np.uint8], Format]:
    try:
        with warnings.catch_warnings(action="ignore"):
            image = opened(files)
    except BadExample as error:
        raise DataError(f"{where} {error}") from error
    grey = image.mode == "L"
    mode = "RGB" if image.mode in SHOWN_IN_COLOUR and not grey else image.mode
    return pixels(image, 1 if grey else 3), Format(*image.size, mode)
