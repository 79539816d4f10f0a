"""Crops of scikit-learn's two sample photographs, with splits that share no pixel.

The part of each photograph that shows something is cut into 5 x 5 tiles. A tile belongs to one
split and every crop lies within one tile, so what is held out was never seen in training, not even
in part.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ray_diffusion.data.order import key, permute

PHOTOGRAPHS = ("china", "flower")
LEFT = (40, 150)  # where the tiles of each photograph begin, pixels
TOP = 72
HEIGHT, WIDTH = 71, 64  # of a tile, pixels
GRID = 5  # tiles in a row and in a column
SIDES = range(32, 65)  # of the crops, pixels
SALT = 0xF070  # what the crops' keys are for; any constant that no other use of `key` has


class Crop(NamedTuple):
    """A square part of a photograph.

    Attributes:
        photograph: Index into ``PHOTOGRAPHS``.
        top: Its first row, pixels.
        left: Its first column, pixels.
        side: Pixels.
    """

    photograph: int
    top: int
    left: int
    side: int

    @property
    def split(self) -> str:
        """The split of its tile: one of each row and column is held out, a knight's move apart."""
        row, column = (self.top - TOP) // HEIGHT, (self.left - LEFT[self.photograph]) // WIDTH
        return "val" if (column + 2 * row) % GRID == 0 else "train"


def crops(count: int) -> Iterator[Crop]:
    """Different crops, equally many of each photograph and tile; 822,800 at most.

    The first crops of a greater count are those of a smaller one.
    """
    places = [
        (top, left, side)
        for side in SIDES
        for top in range(HEIGHT - side + 1)
        for left in range(WIDTH - side + 1)
    ]
    tiles = [
        (photograph, TOP + row * HEIGHT, LEFT[photograph] + column * WIDTH)
        for row in range(GRID)
        for column in range(GRID)
        for photograph in range(len(PHOTOGRAPHS))
    ]
    # The tiles in turn; each goes through its places in an order of its own, without repetition.
    turn, tile = np.divmod(np.arange(min(count, len(tiles) * len(places))), len(tiles))
    place = permute(turn, len(places), key(SALT, tile))
    for t, p in zip(tile.tolist(), place.tolist(), strict=True):
        (photograph, top, left), (down, right, side) = tiles[t], places[p]
        yield Crop(photograph, top + down, left + right, side)


@lru_cache(maxsize=1)
def _photographs() -> list[NDArray[np.uint8]]:
    from sklearn.datasets import load_sample_image

    return [load_sample_image(f"{name}.jpg") for name in PHOTOGRAPHS]


def cut(crop: Crop) -> NDArray[np.uint8]:
    """The pixels of a crop, uint8, shape ``(side, side, 3)``."""
    photograph, top, left, side = crop
    return _photographs()[photograph][top : top + side, left : left + side]
