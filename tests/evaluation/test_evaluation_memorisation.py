import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_diffusion.evaluation.memorisation import QUANTILE, memorised_share, threshold


@given(st.lists(st.floats(0, 100), min_size=20, max_size=400, unique=True))
def test_one_new_image_in_twenty_is_as_near_by_chance(held_out: list[float]):
    found = memorised_share(np.array(held_out), threshold(np.array(held_out)))
    assert found == pytest.approx(QUANTILE, abs=1 / len(held_out))


def test_copies_count_in_full_and_far_images_not_at_all():
    limit = threshold(np.linspace(1, 2, 100))
    assert memorised_share(np.zeros(10), limit) == 1
    assert memorised_share(np.full(10, 1.5), limit) == 0
    assert memorised_share(np.array([0, 0, 0, 1.5]), limit) == 0.75


def test_where_real_images_are_copies_too_only_copies_count():
    held_out = np.array([0.0] * 20 + [1.0] * 80)
    limit = threshold(held_out)
    assert limit == 0
    assert memorised_share(held_out, limit) == 0.2
    assert memorised_share(np.full(10, 1e-9), limit) == 0


def test_of_known_distances_the_share_is_known():
    # Held-out distances uniform on [0, 1]: the limit is 0.05. Drawn ones on [0, 0.1]: half.
    random = np.random.default_rng(0)
    limit = threshold(random.random(40_000))
    assert limit == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 40_000))
    assert memorised_share(random.random(40_000) / 10, 0.05) == pytest.approx(0.5, abs=0.01)
