"""What a packer reads from: records, and a way to load the bytes of each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class Record(NamedTuple):
    """One image before it is looked at.

    Attributes:
        key: Its name in the dataset, unique within the source and without dots.
        at: What ``Source.load`` needs to find it; plain values that JSON can hold.
        label: Its class, an index of ``Source.classes``; None in a source without classes.
        caption: A text about it.
        group: Records of one group share a split; None: the record is a group of its own.
        split: ``"train"``, ``"val"`` or ``"test"`` where the source says so itself.
        stamp: Another one after the image changed, as far as the storage tells.
    """

    key: str
    at: Any
    label: int | None = None
    caption: str | None = None
    group: str | None = None
    split: str | None = None
    stamp: str = ""


@dataclass(frozen=True)
class Source:
    """Images of one origin.

    Attributes:
        name: The location as the user gave it.
        classes: Name of each class, by label; empty without labels.
        records: All records, in an order that depends on the source's content alone.
        load: The encoded image of a record (PNG, JPEG, WebP ...). It is pickled and called on
            other machines, so it holds values only; raises ``StorageError`` where the bytes
            cannot be had.
        image_size: The natural side of a built-in source's images, pixels; None: they have their
            own.
    """

    name: str
    classes: tuple[str, ...]
    records: Sequence[Record]
    load: Callable[[Record], bytes]
    image_size: int | None = None
