"""The sliced Wasserstein distance between two sets of points."""

import numpy as np

from ray_diffusion.evaluation.distances import Array, Points, blocks

DIRECTIONS = 128
SEED = 0  # of the directions; another one makes other figures


def directions(dimensions: int) -> Array:
    """The fixed directions onto which points are projected.

    Args:
        dimensions: D.

    Returns:
        Unit vectors as columns, shape ``(D, 128)``.
    """
    drawn = np.random.default_rng(SEED).normal(size=(dimensions, DIRECTIONS))
    return drawn / np.linalg.norm(drawn, axis=0)  # type: ignore[no-any-return]


def project(points: Points, onto: Array) -> Array:
    """Coordinates of points along each direction.

    Args:
        points: Shape ``(N, D)``.
        onto: Shape ``(D, P)``.

    Returns:
        Shape ``(N, P)``.
    """
    parts = [points[rows].astype(np.float64) @ onto for rows in blocks(len(points), len(onto))]
    return np.concatenate(parts)


def sliced_wasserstein(a: Array, b: Array) -> float:
    """The 1-Wasserstein distance of two sets of projections, averaged over the directions.

    Along one direction ``W1 = integral |F_a - F_b|``, the area between the two empirical
    distribution functions: exact, also for sets of unequal size. (Karras et al. 2018,
    arXiv:1710.10196, measure images with it, there with patches of a Laplacian pyramid.)

    Args:
        a: Coordinates along each direction, shape ``(N, P)``.
        b: Likewise, shape ``(M, P)``.

    Returns:
        The distance, at least 0, in the unit of the coordinates.
    """
    both = np.concatenate([a, b])
    order = both.argsort(axis=0)
    steps = np.repeat([1 / len(a), -1 / len(b)], [len(a), len(b)])
    gaps = np.abs(np.cumsum(steps[order], axis=0)[:-1])
    widths = np.diff(np.take_along_axis(both, order, axis=0), axis=0)
    return float((gaps * widths).sum(0).mean())
