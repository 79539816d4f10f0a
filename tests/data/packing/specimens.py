"""Images to inspect and render, as files."""

import io
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ray_diffusion.data.packing.images import Rendered, inspect_image, render
from ray_diffusion.data.packing.recipe import Recipe

Pixels = NDArray[np.uint8]
PLAIN = Recipe()
PNG = Recipe(encoding="png")
ORIENTATION = 0x0112


def noise(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def encoded(image: Image.Image | Pixels, form: str = "PNG", **options: object) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def rendered(content: bytes, recipe: Recipe, size: int, channels: int) -> Rendered:
    return render(content, inspect_image(content, recipe), recipe, size, channels)


@cache
def specimen(form: str) -> bytes:
    smooth = np.add.outer(np.arange(24), np.arange(32)).astype(np.uint8)
    return encoded(np.stack([smooth, smooth * 4, noise(24, 32)], axis=2), form)
