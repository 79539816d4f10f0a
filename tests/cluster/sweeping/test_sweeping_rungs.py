"""Who goes on, told trial by trial."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_diffusion.cluster.sweeping.rungs import RULES, Always, Halving, Median
from ray_diffusion.config.sweep import EarlyTerminate


@pytest.mark.parametrize(
    ("total", "grace", "eta", "rungs"),
    [
        (81, 0.11, 3, [9, 27]),
        (64_000, 0.11, 3, [7_040, 21_120]),
        (100, 0.5, 2, [50]),
        (100, 1.0, 3, []),
        (9, 0.01, 3, [1, 3]),
    ],
)
def test_rungs_are_apart_by_eta_and_lie_before_the_end(
    total: int, grace: float, eta: int, rungs: list[int]
):
    assert Halving(total, grace, eta).rungs == rungs


def test_of_trials_that_come_in_any_order_only_the_best_third_goes_on():
    halving = Halving(81, 1 / 9, 3)
    verdicts = [halving.goes_on(f"of-{b}", 9, float(b)) for b in "524136"]
    # 5: the first; 2: the best; 4: 2 is better, and of three one goes on; 1: the best; 3: 2 and 1
    # are better, and of five two go on; 6: likewise of six
    assert verdicts == [True, True, False, True, False, False]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40, unique=True))
def test_whoever_is_best_so_far_goes_on_and_so_do_no_more_than_the_share(figures: list[float]):
    halving = Halving(81, 1 / 9, 3)
    for number, badness in enumerate(figures, 1):
        rank = sum(other < badness for other in figures[:number])
        assert halving.goes_on(str(number), 9, badness) == (rank < max(1, math.ceil(number / 3)))


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 81), st.floats(0, 1))))
@pytest.mark.parametrize("rule", ["asha", "median", "none"])
def test_told_the_same_again_a_rule_answers_the_same(rule: str, told: list[tuple[str, int, float]]):
    first, again = (RULES[rule](EarlyTerminate(grace=0.11), 81) for _ in range(2))
    assert [first.goes_on(*figure) for figure in told] == [
        again.goes_on(*figure) for figure in told
    ]


def test_a_trial_is_judged_once_at_each_rung():
    halving = Halving(81, 1 / 9, 3)
    assert halving.goes_on("0", 9, 0.1)
    assert not halving.goes_on("1", 9, 0.2)
    assert halving.goes_on("0", 10, 0.9)  # between rungs nobody is stopped
    assert halving.goes_on("0", 30, 0.1)


def test_a_figure_that_is_no_number_is_the_worst():
    halving, medians = Halving(81, 1 / 9, 3), Median(81, 1 / 9)
    for rule in (halving, medians):
        assert rule.goes_on("0", 9, 0.5)
        assert not rule.goes_on("1", 9, math.nan)


def test_below_the_median_of_the_means_nobody_goes_on():
    rule = Median(100, 0.1)
    for trial, curve in enumerate(([4, 2], [5, 3], [6, 4])):  # means 3, 4 and 5
        for images, badness in zip((10, 20), curve, strict=True):
            rule.goes_on(str(trial), images, badness)
    assert rule.goes_on("3", 20, 4.0)
    assert not rule.goes_on("4", 20, 4.1)
    assert rule.goes_on("5", 5, 100.0)  # too early to tell


def test_without_a_rule_everyone_goes_on():
    assert Always().goes_on("0", 1, math.nan)
