import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_diffusion.evaluation.importance import importance
from ray_diffusion.evaluation.ranks import ranks, spearman

figures = st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=20, unique=True)


@given(figures)
def test_the_same_order_agrees_and_the_reverse_disagrees(values: list[float]):
    assert spearman(values, [value * 2 + 1 for value in ranks(values)]) == pytest.approx(1)
    assert spearman(values, [-value for value in values]) == pytest.approx(-1)


@given(figures, st.randoms(use_true_random=False))
def test_without_ties_it_is_spearmans_formula(values: list[float], shuffled: random.Random):
    other = shuffled.sample(values, len(values))
    n = len(values)
    squares = sum((a - b) ** 2 for a, b in zip(ranks(values), ranks(other), strict=True))
    assert spearman(values, other) == pytest.approx(1 - 6 * squares / (n * (n**2 - 1)))


def test_with_ties_it_is_the_correlation_of_the_places():
    assert list(ranks([3, 1, 3, 2])) == [3.5, 1, 3.5, 2]
    expected = statistics.correlation([3.5, 1, 3.5, 2], [1, 2, 3, 4])
    assert spearman([3, 1, 3, 2], [0, 1, 2, 3]) == pytest.approx(expected)


def test_what_is_no_number_comes_last_together():
    assert list(ranks([math.nan, 1, math.inf, -math.inf])) == [3.5, 2, 3.5, 1]


def test_a_figure_that_is_the_same_for_all_agrees_with_nothing():
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))


def trials(count: int = 24) -> dict[str, list[object]]:
    chosen = random.Random(0)
    return {
        "model.dropout": [chosen.random() for _ in range(count)],
        "diffusion.beta_schedule": [chosen.choice(["linear", "cosine"]) for _ in range(count)],
        "optim.lr": [10 ** chosen.uniform(-5, -2) for _ in range(count)],
    }


def test_the_one_parameter_that_matters_is_found():
    values = trials()
    found = importance(values, [math.log10(lr) for lr in values["optim.lr"]])
    first, *others = found.shares.items()
    assert first[0] == "optim.lr"
    assert 0.7 < first[1] < 1.1
    assert all(abs(share) < 0.1 for _, share in others)
    assert found.told > 0.9


def test_a_parameter_that_has_names_is_found_too():
    values = trials()
    bad = [float(name == "linear") for name in values["diffusion.beta_schedule"]]
    found = importance(values, bad)
    assert next(iter(found.shares)) == "diffusion.beta_schedule"
    assert found.told > 0.9


def test_where_nothing_matters_it_says_so():
    noise = random.Random(1)
    found = importance(trials(), [noise.random() for _ in range(24)])
    assert found.told < 0.1


def test_one_trial_that_diverged_does_not_outweigh_the_others():
    values = trials()
    scores = [math.log10(lr) for lr in values["optim.lr"]]
    scores[0] = math.nan
    assert next(iter(importance(values, scores).shares)) == "optim.lr"


def test_the_same_trials_say_the_same():
    values = trials(8)
    assert importance(values, range(8)) == importance(values, range(8))
