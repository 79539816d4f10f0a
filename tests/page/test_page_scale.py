import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_diffusion.page.scale import Categories, Scale, brief, fit

numbers = st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=50)
amounts = st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=50)


@given(numbers)
def test_every_value_is_on_the_axis_and_in_order(values: list[float]):
    scale = fit(values)
    places = [scale.at(value) for value in sorted(values)]
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)
    assert all(before <= after for before, after in pairwise(places))


@given(numbers | amounts)
def test_an_axis_has_a_few_round_numbers_apart_from_one_another(values: list[float]):
    ticks = fit(values).ticks()
    assert 1 <= len(ticks) <= 10
    assert all(-1e-9 <= place <= 1 + 1e-9 for place, _ in ticks)
    assert all(after - before > 0.03 for (before, _), (after, _) in pairwise(ticks))


def test_numbers_on_an_axis_say_where_they_stand():
    assert fit([0, 10]).ticks() == [
        (0, "0"),
        (0.2, "2"),
        (0.4, "4"),
        (0.6, "6"),
        (0.8, "8"),
        (1, "10"),
    ]
    assert [label for _, label in fit([0.1, 0.32]).ticks()] == ["0.1", "0.15", "0.2", "0.25", "0.3"]
    assert fit([1e-4, 1e-2]).ticks()[-1] == (1, "0.01")


@pytest.mark.parametrize(
    ("values", "log"),
    [([1, 10], False), ([1, 11], True), ([0, 11], False), ([-1, 11], False), ([3], False)],
)
def test_only_positive_values_further_apart_than_a_decade_are_shown_by_their_logarithm(
    values: list[float], log: bool
):
    assert fit(values).log is log


@given(amounts)
def test_equal_factors_are_equally_long_on_a_logarithmic_axis(values: list[float]):
    scale = fit(values, log=True)
    middle = math.sqrt(scale.low * scale.high)
    assert scale.at(middle) == pytest.approx(0.5)


def test_what_is_no_finite_number_has_no_place_and_no_say():
    assert fit([1, math.nan, 2, math.inf, None, "3"]) == Scale(1, 2)
    assert fit([-5, 0, 1, 2], log=True) == Scale(1, 2, True)
    for other in (math.nan, -math.inf, None, "2"):
        assert not Scale(1, 2).holds(other)
    assert not Scale(1, 2, True).holds(0)
    assert Scale(-1, 2).holds(0)


@pytest.mark.parametrize(("log", "count"), [(None, 0), (True, 0), (False, 1), (True, 1)])
def test_nothing_and_one_value_have_an_axis_too(log: bool | None, count: int):
    scale = fit([5] * count, log)
    assert scale.low < scale.high
    assert not count or 0 < scale.at(5) < 1


def test_names_are_equally_far_apart():
    names = Categories(("a", "b"))
    assert names.ticks() == [(0.25, "a"), (0.75, "b")]
    assert names.holds("a")
    assert not names.holds("c")
    assert not names.holds(None)


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (999, "999"), (1000, "1k"), (21_120, "21.12k"), (2e6, "2M"), (-3e9, "-3G")],
)
def test_large_numbers_have_a_letter(value: float, said: str):
    assert brief(value) == said
