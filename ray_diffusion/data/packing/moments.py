"""Mean and deviation of the pixels of a dataset, whatever the order they are added in."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVELS = 255
DIGITS = 6  # of mean and deviation; more say nothing


@dataclass(frozen=True)
class Moments:
    """Sums over the pixels of each channel: whole numbers, so that they are exact.

    Attributes:
        count: Pixels of one channel.
        sums: Sum of their values, by channel.
        squares: Sum of the squares of their values, by channel.
    """

    count: int
    sums: list[int]
    squares: list[int]

    @classmethod
    def none(cls, channels: int) -> "Moments":
        """Of no pixels at all."""
        return cls(0, [0] * channels, [0] * channels)

    @classmethod
    def of(cls, image: NDArray[np.uint8]) -> "Moments":
        """Of one image, shape ``(H, W)`` or ``(H, W, C)``."""
        pixels = image.reshape(-1, image.shape[2] if image.ndim == 3 else 1).astype(np.int64)
        return cls(len(pixels), pixels.sum(0).tolist(), (pixels**2).sum(0).tolist())

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count + other.count,
            [a + b for a, b in zip(self.sums, other.sums, strict=True)],
            [a + b for a, b in zip(self.squares, other.squares, strict=True)],
        )

    def in_colour(self) -> "Moments":
        """Of the same pixels shown in colour, if they are grey."""
        return Moments(self.count, (self.sums * 3)[:3], (self.squares * 3)[:3])

    @property
    def mean(self) -> list[float]:
        """Mean of each channel, in [0, 1]."""
        return [round(total / (self.count * LEVELS), DIGITS) for total in self.sums]

    @property
    def std(self) -> list[float]:
        """Standard deviation of each channel, likewise."""
        n = self.count
        variances = (
            (n * squares - total**2) / (n * LEVELS) ** 2
            for total, squares in zip(self.sums, self.squares, strict=True)
        )
        return [round(math.sqrt(variance), DIGITS) for variance in variances]
