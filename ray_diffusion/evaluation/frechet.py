"""The Frechet distance between two sets of features."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def _sqrt(matrix: Array) -> Array:
    """The positive square root of a symmetric positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T  # type: ignore[no-any-return]


def frechet_distance(a: Array, b: Array) -> float:
    """The squared 2-Wasserstein distance between Gaussians fitted to two sets of features.

    ``|mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a^(1/2) C_b C_a^(1/2))^(1/2))``
    (Heusel et al. 2017, arXiv:1706.08500, there with Inception features and called FID).
    It is biased upwards by small sets: compare at equal counts only.

    Args:
        a: Features, shape ``(N, D)``.
        b: Features, shape ``(M, D)``.

    Returns:
        The distance, at least 0.
    """
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = _sqrt(cov_a)
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(min=0)).sum()
    gap = a.mean(0) - b.mean(0)
    return max(0.0, float(gap @ gap + np.trace(cov_a) + np.trace(cov_b) - 2 * cross))
