import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_diffusion.evaluation import distances
from ray_diffusion.evaluation.kernel import kernel_distance


def cloud(seed: int, count: int, features: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, features))


def by_definition(a: np.ndarray, b: np.ndarray) -> float:
    def k(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    within = [
        np.mean([k(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j])
        for s in (a, b)
    ]
    return float(sum(within) - 2 * np.mean([k(x, y) for x in a for y in b]))


@given(st.integers(0, 10_000), st.integers(2, 8), st.integers(2, 8), st.integers(1, 30))
def test_it_is_its_definition_in_blocks_of_any_size(seed: int, n: int, m: int, block: int):
    a, b = cloud(seed, n), cloud(seed + 1, m) + 0.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distances, "BLOCK_NUMBERS", block)
        assert kernel_distance(a, b) == pytest.approx(by_definition(a, b), rel=1e-9, abs=1e-9)


def test_on_a_line_it_is_the_weighted_difference_of_three_moments_and_without_bias():
    # (xy + 1)^3 = 1 + 3 xy + 3 x^2 y^2 + x^3 y^3, so for infinite sets the distance is
    # 3 (m1 - m1')^2 + 3 (m2 - m2')^2 + (m3 - m3')^2. Of N(0, 1): 0, 1, 0; of N(0.5, 1):
    # 0.5, 1.25, 1.625. Sets of 5 and 8 have that expectation only if nothing is biased.
    expected = 3 * 0.5**2 + 3 * 0.25**2 + 1.625**2
    random = np.random.default_rng(0)
    found = [
        kernel_distance(random.normal(size=(5, 1)), random.normal(0.5, 1, (8, 1)))
        for _ in range(20_000)
    ]
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - expected) < 4 * error
    assert error < 0.1 * expected  # or the line above would say nothing


def test_sets_of_one_distribution_are_no_distance_apart_on_average():
    random = np.random.default_rng(1)
    found = [kernel_distance(*random.normal(size=(2, 10, 3))) for _ in range(5_000)]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(len(found))
    assert min(found) < 0  # as an unbiased estimate must be


@given(st.integers(0, 10_000))
def test_it_is_symmetric_and_unchanged_by_rotation_and_order(seed: int):
    a, b = cloud(seed, 20), cloud(seed + 1, 30) + 1
    rotation, _ = np.linalg.qr(cloud(seed + 2, 4))
    expected = pytest.approx(kernel_distance(a, b), rel=1e-9, abs=1e-9)
    assert kernel_distance(b, a) == expected
    assert kernel_distance(a @ rotation, b @ rotation) == expected
    assert kernel_distance(a[::-1], b) == expected
