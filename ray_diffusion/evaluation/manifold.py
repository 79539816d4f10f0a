"""The region that a set of features covers: balls that reach to the k-th nearest neighbour.

Improved precision and recall (Kynkaanniemi et al. 2019, arXiv:1904.06991) are two shares:
precision that of drawn images inside the region of the real ones, recall that of real images
inside the region of the drawn ones.
"""

import numpy as np
from numpy.typing import NDArray

from ray_diffusion.evaluation.distances import Array, blocks, squared_distances

NEIGHBOURS = 3  # as in the paper


def reach(points: Array, neighbours: int = NEIGHBOURS) -> Array:
    """Squared radius of the ball around each point, to its k-th nearest other point.

    Args:
        points: Features, shape ``(N, D)``.
        neighbours: k, less than N.

    Returns:
        Shape ``(N,)``.
    """
    parts = []
    for rows in blocks(len(points), len(points)):
        squared = squared_distances(points[rows], points)
        here = np.arange(len(squared))
        squared[here, rows.start + here] = np.inf  # no point is its own neighbour
        squared.partition(neighbours - 1, axis=1)
        parts.append(squared[:, neighbours - 1].copy())  # a view would keep the whole block
    return np.concatenate(parts)


def inside(queries: Array, points: Array, reaches: Array) -> NDArray[np.bool_]:
    """Whether each query lies in at least one ball.

    Args:
        queries: Features, shape ``(Q, D)``.
        points: Centres of the balls, shape ``(N, D)``.
        reaches: Their ``reach``, shape ``(N,)``.

    Returns:
        Shape ``(Q,)``.
    """
    return np.concatenate(
        [
            (squared_distances(queries[rows], points) <= reaches).any(1)
            for rows in blocks(len(queries), len(points))
        ]
    )
