"""Distances between many points, in blocks: memory does not grow with the number of pairs."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Points = NDArray[np.float64] | NDArray[np.uint8]

BLOCK_NUMBERS = 2**23  # in one block: 64 MiB of float64


def blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices of so many rows that each, at ``width`` numbers a row, is one block."""
    step = max(1, BLOCK_NUMBERS // width)
    return (slice(start, start + step) for start in range(0, rows, step))


def squared_distances(a: Array, b: Array) -> Array:
    """Squared Euclidean distances, ``|x|^2 + |y|^2 - 2 x.y``.

    Exact for whole numbers, such as pixels; else off by about 1e-16 of the squared norms.

    Args:
        a: Points, shape ``(N, D)``.
        b: Points, shape ``(M, D)``.

    Returns:
        Shape ``(N, M)``, at least 0.
    """
    squared: Array = np.matmul(-2 * a, b.T)
    squared += np.square(a).sum(1)[:, None]
    squared += np.square(b).sum(1)
    return squared.clip(min=0, out=squared)


def nearest(queries: Points, candidates: Iterable[Points]) -> tuple[Array, NDArray[np.int64]]:
    """How far the nearest candidate of each query is, and which one it is.

    Args:
        queries: Points, shape ``(Q, D)``.
        candidates: All candidates, in parts of shape ``(P, D)``; each part is seen once.

    Returns:
        Distances, and indices in the order of the parts (the first of equals), shape ``(Q,)``.
    """
    squared = np.full(len(queries), np.inf)
    index = np.zeros(len(queries), np.int64)
    seen = 0
    for part in candidates:
        for rows in blocks(len(part), part.shape[1]):
            some = part[rows].astype(np.float64)
            for chosen in blocks(len(queries), max(len(some), part.shape[1])):
                found = squared_distances(queries[chosen].astype(np.float64), some)
                at = found.argmin(1)
                least = found[np.arange(len(found)), at]
                closer = least < squared[chosen]
                squared[chosen] = np.where(closer, least, squared[chosen])
                index[chosen] = np.where(closer, seen + at, index[chosen])
            seen += len(some)
    return np.sqrt(squared), index
