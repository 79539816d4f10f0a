"""Made-up images to pack."""

import io
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ray_diffusion.data.packing.source import Record, Source


def png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def load(record: Record) -> bytes:
    return png(np.asarray(record.at, np.uint8))


def toy_source(
    name: str,
    classes: Iterable[str],
    images: Iterable[NDArray[np.uint8]],
    labels: Iterable[int] | None = None,
) -> Source:
    """A source of images; without labels they take turns in the classes."""
    images, classes = list(images), tuple(classes)
    if labels is None and classes:
        labels = [i % len(classes) for i in range(len(images))]
    records = [
        Record(f"{name}-{i:03d}", image.tolist(), label)
        for i, (image, label) in enumerate(zip(images, labels or [None] * len(images), strict=True))
    ]
    return Source(name, classes, records, load)
