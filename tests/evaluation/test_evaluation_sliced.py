import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_diffusion.evaluation import distances
from ray_diffusion.evaluation.sliced import directions, project, sliced_wasserstein


def columns(seed: int, count: int, width: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).round(1)  # with ties


seeds = st.integers(0, 10_000)


@given(seeds, st.integers(1, 30))
def test_of_equal_counts_it_is_the_difference_of_the_sorted_values(seed: int, count: int):
    a, b = columns(seed, count), 2 * columns(seed + 1, count)
    expected = np.abs(np.sort(a, 0) - np.sort(b, 0)).mean()
    assert sliced_wasserstein(a, b) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(seeds, st.integers(1, 8), st.integers(1, 8), st.integers(2, 5))
def test_repeating_a_set_changes_nothing(seed: int, n: int, m: int, times: int):
    a, b = columns(seed, n), columns(seed + 1, m) + 0.3
    again = sliced_wasserstein(np.repeat(a, times, axis=0), b)
    assert again == pytest.approx(sliced_wasserstein(a, b), rel=1e-9, abs=1e-12)


@given(seeds, st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_it_is_a_distance(seed: int, n: int, m: int, k: int):
    a, b, c = columns(seed, n), columns(seed + 1, m), columns(seed + 2, k)
    assert sliced_wasserstein(a, a) == pytest.approx(0, abs=1e-12)
    assert sliced_wasserstein(a, b) == pytest.approx(sliced_wasserstein(b, a), rel=1e-9, abs=1e-12)
    direct, detour = sliced_wasserstein(a, c), sliced_wasserstein(a, b) + sliced_wasserstein(b, c)
    assert direct <= detour + 1e-12


@given(seeds, st.lists(st.floats(-5, 5), min_size=6, max_size=6))
def test_a_moved_set_is_as_far_as_the_move_is_long_along_each_direction(seed: int, by: list[float]):
    onto = directions(6)
    points = np.random.default_rng(seed).normal(size=(20, 6))
    found = sliced_wasserstein(project(points, onto), project(points + by, onto))
    assert found == pytest.approx(np.abs(np.array(by) @ onto).mean(), rel=1e-9, abs=1e-9)


def test_two_gaussians_are_as_far_as_their_deviations_differ():
    # W1 of N(0, 1) and N(0, s^2) is |s - 1| E|z| = |s - 1| sqrt(2 / pi) along every direction.
    random = np.random.default_rng(0)
    onto = directions(4)
    a, b = random.normal(size=(20_000, 4)), 3 * random.normal(size=(10_000, 4))
    found = sliced_wasserstein(project(a, onto), project(b, onto))
    # E|z| of 10,000 draws of deviation 3 is uncertain by 3 * 0.6 / 100; four of those.
    assert found == pytest.approx(2 * np.sqrt(2 / np.pi), abs=0.072)


def test_directions_are_fixed_have_length_one_and_favour_no_axis():
    onto = directions(8)
    np.testing.assert_array_equal(onto, directions(8))
    np.testing.assert_allclose(np.linalg.norm(onto, axis=0), 1)
    # Each squared coordinate is 1/8 on average; its deviation is below 1/8 and there are 128.
    assert np.square(onto).mean(1) == pytest.approx(1 / 8, abs=4 / 8 / np.sqrt(128))


@given(seeds, st.integers(1, 60))
def test_projections_are_the_same_in_blocks_of_any_size(seed: int, block: int):
    points = np.random.default_rng(seed).integers(0, 256, (9, 5)).astype(np.uint8)
    onto = directions(5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distances, "BLOCK_NUMBERS", block)
        np.testing.assert_allclose(project(points, onto), points.astype(float) @ onto)
