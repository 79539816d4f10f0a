import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_diffusion.evaluation import distances
from ray_diffusion.evaluation.manifold import inside, reach


def cloud(seed: int, count: int, features: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, features))


def line(*at: float) -> np.ndarray:
    return np.array(at, float)[:, None]


def test_the_reach_on_a_ruler_is_known():
    ruler = line(*range(10))
    # In the middle the neighbours are 1, 1, 2, 2 away; at the end 1, 2, 3, 4.
    assert reach(ruler, 3).tolist() == [9, 4, 4, 4, 4, 4, 4, 4, 4, 9]
    assert reach(ruler, 1).tolist() == [1] * 10


def test_a_query_is_inside_up_to_the_reach_of_a_point():
    ruler = line(*range(10))
    queries = line(-3.01, -3, 4.5, 12, 12.01)
    assert inside(queries, ruler, reach(ruler, 3)).tolist() == [False, True, True, True, False]


def test_a_model_that_draws_one_of_two_kinds_is_precise_and_covers_half():
    one, other = cloud(0, 50), cloud(1, 50) + 100
    real, drawn = np.concatenate([one, other]), cloud(2, 50) * 0.1
    assert inside(drawn, real, reach(real)).all()
    assert inside(one, drawn, reach(drawn)).sum() <= 50
    assert not inside(other, drawn, reach(drawn)).any()
    covering = np.concatenate([one, one + 1e-9])
    assert inside(real, covering, reach(covering)).mean() == 0.5


def test_one_image_drawn_again_and_again_covers_nothing_but_itself():
    real = cloud(0, 100)
    drawn = np.repeat(real[:1], 100, axis=0)
    assert inside(drawn, real, reach(real)).all()
    assert inside(real, drawn, reach(drawn) + 1e-12).sum() == 1


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 5))
def test_blocks_of_any_size_give_the_same(seed: int, block: int, neighbours: int):
    points, queries = cloud(seed, 12), cloud(seed + 1, 7)
    squared = np.square(points[:, None] - points[None]).sum(2)
    expected = np.sort(squared, axis=1)[:, neighbours]  # the nearest is the point itself
    to_points = np.square(queries[:, None] - points[None]).sum(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distances, "BLOCK_NUMBERS", block)
        found = reach(points, neighbours)
        within = inside(queries, points, found)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert within.tolist() == (to_points <= expected).any(1).tolist()


@given(st.integers(0, 10_000))
def test_a_set_lies_in_its_own_region_and_more_neighbours_only_widen_it(seed: int):
    points, queries = cloud(seed, 30), cloud(seed + 1, 30) * 2
    assert inside(points, points, reach(points, 1)).all()
    narrow, wide = (inside(queries, points, reach(points, k)) for k in (1, 4))
    assert not (narrow & ~wide).any()


@given(st.integers(0, 10_000), st.floats(0.1, 10))
def test_turning_moving_and_scaling_everything_changes_nothing(seed: int, scale: float):
    points, queries = cloud(seed, 30), cloud(seed + 1, 30)
    rotation, _ = np.linalg.qr(cloud(seed + 2, 3))

    def moved(x: np.ndarray) -> np.ndarray:
        return scale * (x @ rotation) + 2

    found = inside(moved(queries), moved(points), reach(moved(points)))
    assert found.tolist() == inside(queries, points, reach(points)).tolist()
