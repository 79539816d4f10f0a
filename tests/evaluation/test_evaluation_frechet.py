import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ray_diffusion.evaluation.frechet import frechet_distance

Array = NDArray[np.float64]


def cloud(seed: int, count: int = 200, features: int = 5) -> Array:
    """Correlated features of unequal scales."""
    random = np.random.default_rng(seed)
    return random.normal(size=(count, features)) @ random.normal(size=(features, features))


def with_moments(seed: int, mean: Array, cov: Array) -> Array:
    """Features whose sample mean and covariance are exactly those given."""
    x = cloud(seed, features=len(mean))
    x = x - x.mean(0)
    whitening = np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False)))
    return x @ whitening.T @ np.linalg.cholesky(cov).T + mean


seeds = st.integers(0, 10_000)
unhurried = settings(deadline=None, max_examples=30)


@unhurried
@given(seeds)
def test_features_are_no_distance_from_themselves(seed: int):
    a = cloud(seed)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9 * np.trace(np.cov(a.T)))


@unhurried
@given(seeds, st.lists(st.floats(-10, 10), min_size=5, max_size=5))
def test_a_translation_is_its_squared_length_away(seed: int, by: list[float]):
    a = cloud(seed)
    expected = float(np.dot(by, by))
    assert frechet_distance(a, a + by) == pytest.approx(expected, rel=1e-6, abs=1e-7)


@unhurried
@given(seeds, st.floats(0.1, 10))
def test_a_scaled_cloud_is_as_far_as_its_deviations_differ(seed: int, factor: float):
    a = cloud(seed) - cloud(seed).mean(0)
    # All of the covariances commute: the sum over axes of (sigma_a - sigma_b)^2.
    expected = (factor - 1) ** 2 * np.trace(np.cov(a.T))
    assert frechet_distance(a, factor * a) == pytest.approx(expected, rel=1e-6, abs=1e-7)


@unhurried
@given(seeds, seeds)
def test_the_distance_is_symmetric_and_unchanged_by_rotation(one: int, two: int):
    a, b = cloud(one), cloud(two) + 1
    rotation, _ = np.linalg.qr(cloud(one + 1, 5))
    expected = frechet_distance(a, b)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6, abs=1e-7)
    assert frechet_distance(a @ rotation, b @ rotation) == pytest.approx(
        expected, rel=1e-6, abs=1e-7
    )


def test_it_is_the_closed_form_of_two_gaussians_that_do_not_commute():
    mean_a, cov_a = np.array([1.0, -2.0]), np.array([[2.0, 0.5], [0.5, 1.0]])
    mean_b, cov_b = np.array([0.0, 1.0]), np.array([[1.0, -0.3], [-0.3, 3.0]])
    assert not np.allclose(cov_a @ cov_b, cov_b @ cov_a)
    # In two dimensions tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)), and M = A^(1/2) B A^(1/2)
    # has the trace and determinant of A B.
    product = cov_a @ cov_b
    cross = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    expected = 1 + 9 + 3 + 4 - 2 * cross
    exact = frechet_distance(with_moments(0, mean_a, cov_a), with_moments(1, mean_b, cov_b))
    assert exact == pytest.approx(expected, rel=1e-9)

    random = np.random.default_rng(0)
    a = random.multivariate_normal(mean_a, cov_a, 100_000)
    b = random.multivariate_normal(mean_b, cov_b, 100_000)
    # The mean gap dominates: 2 |gap| sqrt((tr-ish variances ~ 4) / n) = 0.04; four of those.
    assert frechet_distance(a, b) == pytest.approx(expected, abs=0.16)


def test_features_that_are_always_the_same_are_no_trouble():
    a, b = cloud(0), cloud(1)
    a[:, 2] = b[:, 2] = 3.0
    rest = [0, 1, 3, 4]
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(a[:, rest], b[:, rest]))
