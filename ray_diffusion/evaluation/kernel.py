"""The kernel distance between two sets of features."""

import numpy as np

from ray_diffusion.evaluation.distances import Array, blocks


def _kernel_sum(a: Array, b: Array) -> float:
    """``k`` summed over all pairs of a row of ``a`` and a row of ``b``."""
    parts = (a[rows] @ b.T / a.shape[1] + 1 for rows in blocks(len(a), len(b)))
    return sum(float(np.vdot(part * part, part)) for part in parts)


def _mean_within(a: Array) -> float:
    """``k`` averaged over all pairs of two different rows."""
    itself = float(((np.square(a).sum(1) / a.shape[1] + 1) ** 3).sum())
    return (_kernel_sum(a, a) - itself) / (len(a) * (len(a) - 1))


def kernel_distance(a: Array, b: Array) -> float:
    """The unbiased squared maximum mean discrepancy between two sets of features.

    ``mean_{i != j} k(a_i, a_j) + mean_{i != j} k(b_i, b_j) - 2 mean_{i, j} k(a_i, b_j)`` with
    ``k(x, y) = (x.y / D + 1)^3`` (Binkowski et al. 2018, arXiv:1801.01401, there with Inception
    features and called KID; here over all pairs, not over random subsets). Sets of any size have
    the same expectation, which is 0 for sets of one distribution.

    Args:
        a: Features, shape ``(N, D)``, at least two.
        b: Features, shape ``(M, D)``, at least two.

    Returns:
        The distance; below 0 where the sets are more alike than two random ones, as by chance
        or in a split with equal shares of the classes.
    """
    between = _kernel_sum(a, b) / (len(a) * len(b))
    return _mean_within(a) + _mean_within(b) - 2 * between
