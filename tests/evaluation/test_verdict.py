import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_diffusion.evaluation.verdict import Candidate, verdict

FD = "sample/fd"
figures = st.lists(st.floats(0, 100).map(lambda x: round(x, 3)), min_size=2, max_size=5)


def test_candidates_come_with_the_lowest_mean_first_and_without_a_number_last():
    found = {"nan": [0.1, math.nan], "b": [0.3, 0.5], "inf": [0.1, math.inf], "a": [0.5, 0.1]}
    judged = verdict(FD, found)
    assert [one.name for one in judged.candidates] == ["a", "b", "inf", "nan"]
    assert judged.difference == pytest.approx(0.1)
    assert judged.candidates[0] == Candidate("a", (0.5, 0.1))


def test_mean_and_spread_are_those_of_a_sample():
    one = Candidate("a", (1.0, 2.0, 6.0))
    assert (one.mean, one.spread) == (3.0, pytest.approx(math.sqrt((4 + 1 + 9) / 2)))
    assert math.isnan(Candidate("a", (1.0,)).spread)


def test_equal_spreads_and_counts_give_the_interval_of_the_tables():
    # Variances 1 and 1, 3 values each: nu = 4, of which t at 97.5 % is 2.776445.
    judged = verdict(FD, {"a": [9.0, 10.0, 11.0], "b": [13.0, 14.0, 15.0]})
    half = 2.776445 * math.sqrt(2 / 3)
    assert judged.interval == pytest.approx((4 - half, 4 + half), abs=1e-5)
    assert judged.clear


def test_a_candidate_that_never_varies_leaves_the_degrees_of_freedom_of_the_other():
    # nu = n - 1 = 2, of which t at 97.5 % is 4.302653.
    judged = verdict(FD, {"a": [1.0, 1.0, 1.0, 1.0, 1.0], "b": [2.0, 3.0, 4.0]})
    half = 4.302653 / math.sqrt(3)
    assert judged.interval == pytest.approx((2 - half, 2 + half), abs=1e-5)
    assert not judged.clear


def test_unequal_counts_give_the_interval_of_an_established_implementation():
    from scipy.stats import ttest_ind

    a, b = [0.41, 0.47, 0.44, 0.39], [0.62, 0.55, 0.71]
    judged = verdict(FD, {"a": a, "b": b})
    low, high = ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    assert judged.interval == pytest.approx((float(low), float(high)))


@given(a=figures, b=figures)
def test_the_order_of_the_candidates_and_of_their_seeds_does_not_matter(
    a: list[float], b: list[float]
):
    there, back = verdict(FD, {"a": a, "b": b}), verdict(FD, {"b": b[::-1], "a": a[::-1]})
    assert there.difference == pytest.approx(back.difference)
    assert there.interval == pytest.approx(back.interval)
    assert there.difference >= 0
    assert there.interval is not None
    assert sum(there.interval) / 2 == pytest.approx(there.difference, abs=1e-6)


@pytest.mark.parametrize("spreads", [(1.0, 1.0), (1.0, 3.0)])
def test_three_seeds_take_noise_for_a_difference_in_one_case_of_twenty_at_most(
    spreads: tuple[float, float],
):
    draws = np.random.default_rng(0).standard_normal((3000, 2, 3)) * np.array(spreads)[:, None]
    claims = [verdict(FD, {"a": list(a), "b": list(b)}).clear for a, b in draws]
    # Welch's interval is a little too wide at so few: 0.03 to 0.05.
    assert 0.02 < np.mean(claims) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / len(draws))


def test_three_seeds_show_a_difference_of_three_spreads_in_most_cases():
    draws = np.random.default_rng(1).standard_normal((1000, 2, 3)) + np.array([[0.0], [3.0]])
    judged = [verdict(FD, {"a": list(a), "b": list(b)}) for a, b in draws]
    assert np.mean([one.clear and one.candidates[0].name == "a" for one in judged]) > 0.6


@pytest.mark.parametrize(
    "found",
    [
        {"a": [0.4, 0.5]},
        {"a": [0.4], "b": [0.5]},
        {"a": [0.4, 0.5], "b": [0.6]},
        {"a": [0.4, 0.5], "b": [0.6, math.nan]},
        {"a": [0.4, 0.5], "b": [0.6, math.inf]},
        {"a": [math.inf, 1.0], "b": [math.inf, 1.0]},
    ],
)
def test_there_is_no_interval_without_two_numbers_of_both(found: dict[str, list[float]]):
    judged = verdict(FD, found)
    assert judged.interval is None
    assert not judged.clear
    assert judged.candidates[0].name == "a"


def test_figures_that_never_vary_differ_or_do_not():
    assert verdict(FD, {"a": [0.4, 0.4], "b": [0.5, 0.5]}).clear
    assert not verdict(FD, {"a": [0.4, 0.4], "b": [0.4, 0.4]}).clear


def test_the_sentence_says_who_is_best_and_whether_it_is_noise():
    a, near, far = [0.45, 0.43, 0.47], [0.46, 0.44, 0.55], [0.60, 0.62, 0.64]
    assert verdict(FD, {"far": far, "a": a}).text == (
        "a is best: sample/fd 0.45 ± 0.02 over 3 seeds; far has 0.62 ± 0.02, a difference larger "
        "than the noise (0.17, 95 % interval 0.125 to 0.215)"
    )
    assert "a difference no larger than the noise" in verdict(FD, {"near": near, "a": a}).text
    assert verdict(FD, {"a": a}).text == (
        "a is best: sample/fd 0.45 ± 0.02 over 3 seeds; there is nothing to compare it with"
    )
    assert verdict(FD, {"a": [0.45], "b": [0.5]}).text == (
        "a is best: sample/fd 0.45 of one seed; b has 0.5, and whether that is more than noise "
        "cannot be said"
    )
