"""Who comes before whom, and whether two figures agree on it."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata


def ranks(figures: Sequence[float]) -> NDArray[np.float64]:
    """The place of each figure from 1, the smallest first.

    Args:
        figures: Equal ones share the mean of their places; NaN comes after all others.

    Returns:
        Places, shape ``(len(figures),)``.
    """
    found: NDArray[np.float64] = rankdata(np.nan_to_num(figures, nan=math.inf, posinf=math.inf))
    return found


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """How far two figures agree on an order: Spearman's rank correlation.

    Args:
        one: A figure of several things.
        other: Another figure of the same, in the same order.

    Returns:
        1: the same order, 0: no relation, -1: the reverse; NaN where one figure is the same for
        all.
    """
    a, b = ranks(one), ranks(other)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])
