from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_diffusion.training.lr import LR_SCHEDULES, learning_rate

END = {"constant": 1.0, "cosine": 0.0, "linear": 0.0}
HALFWAY = {"constant": 1.0, "cosine": 0.5, "linear": 0.5}


@given(st.integers(1, 10**6), st.data())
@pytest.mark.parametrize("schedule", LR_SCHEDULES)
def test_a_rate_is_never_negative_nor_above_the_peak(
    schedule: str, total: int, data: st.DataObject
):
    warmup = data.draw(st.integers(0, total))
    images_seen = data.draw(st.integers(0, total - 1))
    assert 0 <= learning_rate(images_seen, 0.3, schedule, warmup, total) <= 0.3


@pytest.mark.parametrize("schedule", LR_SCHEDULES)
def test_a_rate_ends_at_its_end_value_and_stays_there(schedule: str):
    assert set(END) == set(LR_SCHEDULES)
    for images_seen in (1000, 2000):
        rate = learning_rate(images_seen, 0.3, schedule, 100, 1000)
        assert rate == pytest.approx(0.3 * END[schedule])
    assert learning_rate(550, 0.3, schedule, 100, 1000) == pytest.approx(0.3 * HALFWAY[schedule])


@pytest.mark.parametrize("schedule", LR_SCHEDULES)
def test_the_warm_up_is_a_line_that_meets_the_peak(schedule: str):
    rates = [learning_rate(seen, 1.0, schedule, 100, 1000) for seen in range(100)]
    assert rates == pytest.approx([(seen + 1) / 100 for seen in range(100)])
    assert learning_rate(100, 1.0, schedule, 100, 1000) == 1


@pytest.mark.parametrize("schedule", LR_SCHEDULES)
def test_without_a_warm_up_the_first_rate_is_the_peak(schedule: str):
    assert learning_rate(0, 0.3, schedule, 0, 1000) == 0.3


@pytest.mark.parametrize("schedule", LR_SCHEDULES)
def test_a_rate_has_no_jumps(schedule: str):
    rates = [learning_rate(seen, 1.0, schedule, 100, 1000) for seen in range(1000)]
    steps = [abs(b - a) for a, b in pairwise(rates)]
    assert max(steps) <= 0.01 + 1e-12  # the warm-up's slope, the steepest part
    assert all(b <= a for a, b in pairwise(rates[100:]))
