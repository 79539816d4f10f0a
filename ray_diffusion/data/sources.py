"""Image sets that are at hand without a download, by name."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class Example(NamedTuple):
    """One image of a source.

    Attributes:
        key: Its name, unique within the source and without dots.
        image: uint8, shape ``(H, W)`` or ``(H, W, 3)``.
        label: Its class.
    """

    key: str
    image: NDArray[np.uint8]
    label: int


class Source(NamedTuple):
    """An image set.

    Attributes:
        classes: Name of each class, by label.
        examples: All images, at the size asked for.
    """

    classes: tuple[str, ...]
    examples: Iterator[Example]


def digits(image_size: int) -> Source:
    """The 1797 handwritten digits of scikit-learn, 8x8 with 17 grey levels.

    Args:
        image_size: Side in pixels; other than 8 they are resized bilinearly.

    Returns:
        The source, ten classes.
    """
    from sklearn.datasets import load_digits

    data = load_digits()

    def examples() -> Iterator[Example]:
        for i, (levels, label) in enumerate(zip(data.images, data.target, strict=True)):
            pixels = np.round(levels * (255 / 16)).astype(np.uint8)
            if image_size != pixels.shape[0]:
                resized = Image.fromarray(pixels).resize((image_size, image_size), Image.BILINEAR)  # type: ignore[attr-defined]
                pixels = np.asarray(resized)
            yield Example(f"digits-{i:04d}", pixels, int(label))

    return Source(tuple("0123456789"), examples())


SOURCES: dict[str, Callable[[int], Source]] = {"digits": digits}
