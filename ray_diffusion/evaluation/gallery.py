"""The pictures of a report: drawn images, real ones, and the pairs that could be copies."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ray_diffusion.data.reader import Dataset
from ray_diffusion.evaluation.figures import Report
from ray_diffusion.evaluation.reference import REFERENCE_IMAGES

ROWS = 10
COLUMNS = 10  # unless there are nearly as many classes: then one column for each


@dataclass(frozen=True)
class Tile:
    """One cell of a panel.

    Attributes:
        pictures: PNG files, one below the other.
        name: What they show, for those who do not see them.
        caption: Text below them.
    """

    pictures: tuple[bytes, ...]
    name: str
    caption: str = ""


@dataclass(frozen=True)
class Panel:
    """A grid of pictures.

    Attributes:
        title: Its heading.
        text: What it shows.
        tiles: Row by row.
        columns: Tiles in a row.
    """

    title: str
    text: str
    tiles: tuple[Tile, ...]
    columns: int


def panels(
    images: Tensor,
    labels: Tensor | None,
    report: Report,
    train: Dataset,
    val: Dataset,
    png: Callable[[Tensor], bytes],
) -> list[Panel]:
    """Choose what to look at.

    Args:
        images: The drawn images of the first seed, uint8, shape ``(N, C, H, W)``.
        labels: Their classes, shape ``(N,)``; None if they have none.
        report: Names the pairs.
        train: The train split.
        val: The val split.
        png: Writes one image, uint8 ``(C, H, W)``, as a PNG file.

    Returns:
        The first drawn images; real images, of the same classes in the same places; the drawn
        images that are nearest to a training image, each above it.
    """
    names = train.manifest.classes if labels is not None else ()
    columns = len(names) if 5 <= len(names) <= 12 else COLUMNS
    shown = images[: ROWS * columns]
    classes = labels[: len(shown)].tolist() if names and labels is not None else [0] * len(shown)
    real = val.read(0, min(len(val), REFERENCE_IMAGES))
    real_labels = real.labels if names else torch.zeros_like(real.labels)
    like = alike(real.images, real_labels, classes)

    def tiles(kind: str, pictures: Iterable[tuple[Tensor, int]]) -> tuple[Tile, ...]:
        return tuple(
            Tile((png(image),), f"{kind} {names[label]}" if names else kind)
            for image, label in pictures
        )

    pairs = tuple(
        Tile(
            (png(images[pair.drawn]), png(train.read(pair.train, pair.train + 1).images[0])),
            f"drawn image {pair.drawn} above training image {pair.train}",
            f"{pair.distance:.1f}",
        )
        for pair in report.closest
    )
    near = (
        "The drawn images that are nearest to a training image, each above it, with the distance "
        "of their pixels in grey levels. Of the validation images, one in twenty is as near as "
        f"{report.memorised_below:.1f}; a copy would be at 0."
    )
    drawn = tiles("drawn", zip(shown, classes, strict=True))
    return [
        Panel("Drawn", "The first images, as they came.", drawn, columns),
        Panel("Real", "Images of the validation split.", tiles("real", like), columns),
        Panel("Nearest training images", near, pairs, COLUMNS),
    ]


def alike(images: Tensor, labels: Tensor, wanted: Sequence[int]) -> Iterator[tuple[Tensor, int]]:
    """Images of given classes.

    Args:
        images: What there is, shape ``(N, C, H, W)``.
        labels: Their classes, shape ``(N,)``.
        wanted: Classes, in order.

    Yields:
        An image of each class wanted, and the class; each image once before any comes again, and
        nothing for a class without images.
    """
    members = {label: itertools.cycle(images[labels == label]) for label in set(wanted)}
    for label in wanted:
        for image in itertools.islice(members[label], 1):
            yield image, label
