"""Mean and deviation of the latents of a dataset."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sums:
    """Sums over latents, of each channel, in float64.

    Attributes:
        count: Values of one channel.
        means: Sum of their means.
        squares: Sum of the expectations of their squares, ``mean^2 + exp(logvar)``.
    """

    count: int
    means: list[float]
    squares: list[float]

    @classmethod
    def none(cls, channels: int) -> "Sums":
        """Of no latents at all."""
        return cls(0, [0.0] * channels, [0.0] * channels)

    @classmethod
    def of(cls, latents: NDArray[np.float16]) -> "Sums":
        """Of latents of shape ``(B, variants, moments, channels, size, size)``."""
        mean, *logvars = np.moveaxis(latents.astype(np.float64), 2, 0)
        squares = mean**2 + sum(map(np.exp, logvars))
        axes = (0, 1, 3, 4)
        count = mean.size // mean.shape[2]
        return cls(count, mean.sum(axes).tolist(), squares.sum(axes).tolist())

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(
            self.count + other.count,
            [a + b for a, b in zip(self.means, other.means, strict=True)],
            [a + b for a, b in zip(self.squares, other.squares, strict=True)],
        )

    @property
    def mean(self) -> list[float]:
        """Mean of each channel."""
        return [total / self.count for total in self.means]

    @property
    def std(self) -> list[float]:
        """Standard deviation of each channel; 0 of one that never changes, whose sums are exact."""
        pairs = zip(self.squares, self.mean, strict=True)
        return [max(total / self.count - mean**2, 0.0) ** 0.5 for total, mean in pairs]
