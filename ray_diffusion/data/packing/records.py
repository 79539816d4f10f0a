"""From what an input found to a source: one set of rules for keys, classes and splits."""

import posixpath
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from ray_diffusion.data.packing.source import Record, Source
from ray_diffusion.errors import DataError

IMAGES = ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "ppm")  # extensions
SPLIT_WORDS = {
    "train": "train",
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    "test": "test",
}


class Found(NamedTuple):
    """An image as an input found it: a ``Record`` whose class is not numbered yet.

    Attributes:
        where: What to call it in front of the user: file name, or file and row.
        key: Its name in the dataset.
        at: What the source's ``load`` needs to find it.
        label: Name of its class.
        caption: A text about it.
        group: Images of one group share a split.
        split: A value of ``SPLIT_WORDS``.
        stamp: Another one after the image changed.
    """

    where: str
    key: str
    at: Any
    label: str | None = None
    caption: str | None = None
    group: str | None = None
    split: str | None = None
    stamp: str = ""


def key_of(path: str) -> str:
    """The key of an image that only has a path: no dots or slashes, for webdataset's sake.

    Args:
        path: Without the extension.

    >>> key_of("./cat/a b.v2"), key_of("猫")
    ('cat-a_b_v2', 'u732b')
    """
    stem = posixpath.normpath(path).replace("/", "-")
    # Spelt out, not blotted out: names in another script would all become the same.
    return re.sub(r"[^A-Za-z0-9_-]", lambda c: "_" if c[0].isascii() else f"u{ord(c[0]):x}", stem)


def in_order(classes: Iterable[str]) -> tuple[str, ...]:
    """Class names in the order of their labels: by number if all are whole numbers, else by name.

    >>> in_order({"10", "9", "1"}), in_order({"10", "9", "one"})
    (('1', '9', '10'), ('10', '9', 'one'))
    """
    names = sorted(classes)
    return tuple(sorted(names, key=int) if all(re.fullmatch(r"\d+", n) for n in names) else names)


def source_of(
    name: str,
    found: Iterable[Found],
    load: Callable[[Record], bytes],
    classes: Sequence[str] | None = None,
) -> Source:
    """The source that an input's images make up.

    Where the input names no validation split, its ``train`` only says what is no test: how much
    of it is kept for validation is for the recipe to say.

    Args:
        name: The location as the user gave it.
        found: All images, in an order that depends on the input's content alone.
        load: Gives the encoded image of a record.
        classes: The class names in the order of their labels; None: those found, in order.

    Returns:
        The source.

    Raises:
        DataError: If there is no image, two have one key, or some have a class and some none.
    """
    images = list(found)
    if not images:
        raise DataError(f"{name} holds no images")
    _check_keys(images)
    _check_labels(images)
    if classes is None:
        classes = in_order({image.label for image in images if image.label is not None})
    labels: dict[str | None, int | None] = {label: i for i, label in enumerate(classes)}
    labels[None] = None
    splits = {split: split for split in SPLIT_WORDS.values()}
    if all(image.split != "val" for image in images):
        del splits["train"]
    records = [
        Record(key, at, labels[label], caption, group, splits.get(split or ""), stamp)
        for _, key, at, label, caption, group, split, stamp in images
    ]
    return Source(name, tuple(classes), records, load)


def _check_keys(images: Sequence[Found]) -> None:
    seen: dict[str, str] = {}
    for image in images:
        if image.key in seen:
            raise DataError(
                f"{seen[image.key]} and {image.where} have the same key '{image.key}'; rename one"
            )
        seen[image.key] = image.where


def _check_labels(images: Sequence[Found]) -> None:
    labelled = next((image for image in images if image.label is not None), None)
    bare = next((image for image in images if image.label is None), None)
    if labelled and bare:
        raise DataError(
            f"{bare.where} has no class, but {labelled.where} has '{labelled.label}'; "
            "give all images a class, or none"
        )
