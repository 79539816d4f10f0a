import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_diffusion.evaluation import distances
from ray_diffusion.evaluation.distances import blocks, nearest, squared_distances
from ray_diffusion.evaluation.kernel import kernel_distance
from ray_diffusion.evaluation.manifold import inside, reach


def pixels(seed: int, count: int, dimensions: int, levels: int = 256) -> np.ndarray:
    shape = (count, dimensions)
    return np.random.default_rng(seed).integers(0, levels, shape).astype(np.uint8)


@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 9), st.integers(1, 50))
def test_distances_of_pixels_are_exact(seed: int, rows: int, columns: int, dimensions: int):
    a, b = pixels(seed, rows, dimensions), pixels(seed + 1, columns, dimensions)
    expected = np.square(a[:, None].astype(int) - b.astype(int)).sum(2)
    found = squared_distances(a.astype(float), b.astype(float))
    assert found.tolist() == expected.tolist()


@given(st.integers(0, 100), st.integers(1, 1000))
def test_blocks_cover_each_row_once_in_order(rows: int, width: int):
    found = [list(range(rows))[part] for part in blocks(rows, width)]
    assert [row for part in found for row in part] == list(range(rows))


@given(
    st.integers(0, 10_000), st.integers(1, 60), st.lists(st.integers(1, 7), min_size=1, max_size=5)
)
def test_the_nearest_is_the_same_in_blocks_of_any_size(seed: int, block: int, parts: list[int]):
    # Few levels, so that there are ties: the first of equals is taken.
    queries, candidates = pixels(seed, 6, 3, levels=3), pixels(seed + 1, sum(parts), 3, levels=3)
    squared = np.square(queries[:, None].astype(float) - candidates[None]).sum(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distances, "BLOCK_NUMBERS", block)
        far, index = nearest(queries, iter(np.split(candidates, np.cumsum(parts)[:-1])))
    assert far.tolist() == np.sqrt(squared.min(1)).tolist()
    assert index.tolist() == squared.argmin(1).tolist()


def test_a_copy_is_at_no_distance_and_is_found():
    candidates = pixels(0, 500, 64)
    far, index = nearest(candidates[123:124], [candidates])
    assert (far[0], index[0]) == (0, 123)


@pytest.mark.parametrize(
    "pairwise",
    [
        lambda points: reach(points),
        lambda points: inside(points, points, np.ones(len(points))),
        lambda points: kernel_distance(points, points),
        lambda points: nearest(points, np.split(points, 10)),
    ],
)
def test_memory_does_not_grow_with_the_number_of_pairs(pairwise: Callable[[np.ndarray], object]):
    points = np.random.default_rng(0).normal(size=(2000, 4))  # all pairs: 32 MB
    tracemalloc.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(distances, "BLOCK_NUMBERS", 2**14)
            pairwise(points)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2e6
