"""``builtin:NAME`` sources: images that are at hand without a download."""

from collections.abc import Callable
from difflib import get_close_matches
from functools import lru_cache
from hashlib import blake2b
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ray_diffusion.data.packing.photos import PHOTOGRAPHS, Crop, crops, cut
from ray_diffusion.data.packing.shapes import SHAPES, draw
from ray_diffusion.data.packing.source import Record, Source
from ray_diffusion.errors import UsageError

SCHEME = "builtin:"
HELD_OUT = 0.2  # of the digits, for validation


def _png(pixels: NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)  # it is soon decoded again
    return file.getvalue()


@lru_cache(maxsize=1)
def _digits() -> Any:
    from sklearn.datasets import load_digits

    return load_digits()


def load_digit(record: Record) -> bytes:
    """The digit of index ``record.at``, 8x8, grey."""
    levels = _digits().images[record.at]  # 0 to 16
    return _png(np.round(levels * (255 / 16)).astype(np.uint8))


def load_shape(record: Record) -> bytes:
    """The shape of number ``record.at``, 128x128, colour."""
    return _png(draw(record.at))


def load_photo(record: Record) -> bytes:
    """The crop that ``record.at`` names, 32x32 to 64x64, colour."""
    return _png(cut(Crop(*record.at)))


def digits(num_examples: int | None) -> Source:
    """The first of the 1797 handwritten digits of scikit-learn, 8x8 with 17 grey levels.

    No others will ever come, so they are divided by class: a fifth of each, drawn by a hash of the
    keys, is for validation. So small a set would else have splits of different classes, which
    every measure of its images would see.

    Args:
        num_examples: How many; None: all.

    Returns:
        The source, ten classes.
    """
    labels = _digits().target.tolist()
    records = [Record(f"digits-{i:04d}", i, label) for i, label in enumerate(labels)]
    held_out: set[str] = set()
    for label in range(10):
        keys = sorted((r.key for r in records if r.label == label), key=_place)
        held_out.update(keys[: round(len(keys) * HELD_OUT)])
    divided = [r._replace(split="val" if r.key in held_out else "train") for r in records]
    return Source(
        "builtin:digits", tuple("0123456789"), divided[:num_examples], load_digit, image_size=8
    )


def _place(key: str) -> bytes:
    return blake2b(f"split/{key}".encode(), digest_size=8).digest()


def shapes(num_examples: int | None) -> Source:
    """Six drawn shapes in colour, meant for 32x32 and good up to 128x128.

    Args:
        num_examples: How many, without limit; None: 8192.

    Returns:
        The source, six classes of equal share.
    """
    numbers = range(8192 if num_examples is None else num_examples)
    records = [Record(f"shapes-{i:06d}", i, i % len(SHAPES)) for i in numbers]
    return Source("builtin:shapes", tuple(SHAPES), records, load_shape, image_size=32)


def photos(num_examples: int | None) -> Source:
    """Crops of a photograph of a temple and one of a flower, 32 to 64 pixels a side.

    Args:
        num_examples: How many; None: 4096.

    Returns:
        The source, two classes of equal share. It says itself which fifth is held out, so that
        no crop shares a pixel with one of another split.
    """
    chosen = crops(4096 if num_examples is None else num_examples)
    records = [
        Record(f"photos-{i:06d}", list(crop), crop.photograph, split=crop.split)
        for i, crop in enumerate(chosen)
    ]
    return Source("builtin:photos", PHOTOGRAPHS, records, load_photo, image_size=32)


EMBEDDED: dict[str, Callable[[int | None], Source]] = {
    "digits": digits,
    "shapes": shapes,
    "photos": photos,
}


def embedded(location: str, num_examples: int | None) -> Source:
    """The source that a ``builtin:NAME`` stands for.

    Args:
        location: ``builtin:NAME``, with a key of ``EMBEDDED``.
        num_examples: How many images, at least 1; None: the source's own number.

    Returns:
        The source, with exactly so many records.

    Raises:
        UsageError: If there is no such source, or it has fewer images.
    """
    name = location.removeprefix(SCHEME)
    if name not in EMBEDDED:
        near = get_close_matches(name, EMBEDDED, n=1)
        hint = f"did you mean '{SCHEME}{near[0]}'?" if near else f"there is {', '.join(EMBEDDED)}"
        raise UsageError(f"no built-in dataset '{name}'; {hint}")
    source = EMBEDDED[name](num_examples)
    if num_examples is not None and len(source.records) < num_examples:
        raise UsageError(
            f"num_examples: {location} has {len(source.records)} images, not {num_examples}"
        )
    return source
