"""Small images, each of which shows which one it is."""

import io
from collections.abc import Iterable

import numpy as np
from PIL import Image

from ray_diffusion.storage import Directory


def png(number: int) -> bytes:
    """A grey image of one level, 0 to 255."""
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), number, np.uint8)).save(file, "png")
    return file.getvalue()


def write(url: str, names: Iterable[str]) -> None:
    """Write image files; the first shows 0, the next 1 ..."""
    for number, name in enumerate(names):
        Directory(url).write(name, png(number))
