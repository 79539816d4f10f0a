"""What a sweep chooses from."""

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ray_diffusion.config.space import OfSection, Parameter, axes, count, draw, of_grid

LISTS = st.lists(st.integers(), min_size=1, max_size=4, unique=True).map(
    lambda values: Parameter(values=tuple(values))
)
NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({}, "needs values, or min and max"),
        ({"min": 1}, "needs values, or min and max"),
        ({"values": [1], "min": 0}, "takes either values, or min, max and distribution"),
        ({"values": [1], "distribution": "uniform"}, "takes either values"),
        ({"min": 2, "max": 1}, "min must be below max, got 2 and 1"),
        ({"min": 1, "max": 1}, "min must be below max, got 1 and 1"),
        ({"min": 0, "max": 1, "distribution": "log_uniform"}, "needs a min above 0 .*, got 0"),
        ({"min": -9, "max": -2, "distribution": "log_uniform"}, "a value, not its exponent"),
        ({"min": 0.5, "max": 2, "distribution": "int_uniform"}, "needs whole numbers, got 0.5"),
        ({"min": 0, "max": 2.5, "distribution": "int_uniform"}, "whole numbers, got 0 and 2.5"),
        ({"min": NAN, "max": 1}, "finite number"),
        ({"min": 0, "max": INFINITE}, "finite number"),
        ({"min": True, "max": 2}, "valid number"),
        ({"values": []}, "at least 1 item"),
        ({"value": 1, "values": [1]}, "value stands alone"),
        ({"value": 1, "min": 1}, "value stands alone"),
        ({"min": 0, "max": 1, "distribution": "normal"}, "'uniform', 'log_uniform'"),
        ({"min": 0, "max": 1, "q": 2}, "Extra inputs"),
    ],
)
def test_what_is_neither_a_list_nor_a_range_is_refused(said: dict[str, Any], problem: str):
    with pytest.raises(ValidationError, match=problem):
        Parameter.model_validate(said)


def test_the_spellings_of_w_and_b_mean_the_same():
    ends = {"min": 1e-4, "max": 1e-2}
    assert Parameter.model_validate({"value": [1]}) == Parameter(values=([1],))
    assert Parameter.model_validate(ends | {"distribution": "log_uniform_values"}) == Parameter(
        **ends, distribution="log_uniform"
    )


@given(st.lists(LISTS, min_size=1, max_size=3))
def test_a_grid_has_each_combination_once_and_the_last_key_changes_fastest(
    lists: list[Parameter],
):
    space = {f"key{i}": parameter for i, parameter in enumerate(lists)}
    found = [of_grid(space, number) for number in range(count(space))]
    assert count(space) == math.prod(len(parameter.samples) for parameter in lists)
    assert all(list(values) == list(space) for values in found)
    places = [[p.samples.index(v) for p, v in zip(lists, t.values(), strict=True)] for t in found]
    assert places == sorted(places)
    assert len({tuple(place) for place in places}) == count(space)


def test_keys_of_a_section_vary_as_one():
    space = {
        "diffusion.beta_schedule": OfSection(values=("cosine", "linear"), section="diffusion"),
        "optim.lr": Parameter(values=(1, 2, 3)),
        "diffusion.scale_betas": OfSection(values=(True, False), section="diffusion"),
    }
    together = {("cosine", True), ("linear", False)}
    keys = ("diffusion.beta_schedule", "diffusion.scale_betas")
    assert axes(space) == {"diffusion": list(keys), "optim.lr": ["optim.lr"]}
    assert count(space) == 6
    grid = [of_grid(space, number) for number in range(6)]
    assert len({tuple(values.values()) for values in grid}) == 6
    drawn = [draw(space, 0, number) for number in range(50)]
    for found in (grid, drawn):
        assert {tuple(values[key] for key in keys) for values in found} == together


def test_a_grid_is_counted_without_being_made():
    space = {f"key{i}": Parameter(values=tuple(range(1000))) for i in range(10)}
    assert count(space) == 10**30
    assert of_grid(space, 10**30 - 1) == dict.fromkeys(space, 999)


@given(st.integers(0, 2**32), st.integers(0, 1000))
def test_a_trial_hangs_on_seed_number_and_key_alone(seed: int, number: int):
    lr = Parameter(min=1e-4, max=1e-2, distribution="log_uniform")
    channels = Parameter(values=(32, 64))
    alone = draw({"optim.lr": lr}, seed, number)
    assert draw({"model.channels": channels, "optim.lr": lr}, seed, number) == alone | draw(
        {"model.channels": channels}, seed, number
    )


def test_trials_and_seeds_differ():
    space = {"optim.lr": Parameter(min=0, max=1)}
    drawn = {draw(space, seed, number)["optim.lr"] for seed in range(10) for number in range(10)}
    assert len(drawn) == 100


@given(
    st.floats(1e-6, 1e3),
    st.floats(1.001, 1e6),
    st.sampled_from(["uniform", "log_uniform"]),
    st.integers(0, 100),
)
def test_values_of_a_range_lie_in_it(low: float, factor: float, distribution: Any, number: int):
    parameter = Parameter(min=low, max=low * factor, distribution=distribution)
    assert low <= draw({"key": parameter}, 0, number)["key"] <= low * factor
    first, middle, last = parameter.samples
    assert (first, last) == pytest.approx((low, low * factor), rel=1e-12)
    assert first < middle < last


@pytest.mark.parametrize(
    ("parameter", "median"),
    [
        (Parameter(min=0.0, max=1.0), 0.5),
        (Parameter(min=1e-4, max=1e-2, distribution="log_uniform"), 1e-3),
        (Parameter(min=1, max=9, distribution="int_uniform"), 5),
    ],
)
def test_half_of_the_draws_lie_below_the_median_of_the_distribution(
    parameter: Parameter, median: float
):
    drawn = [draw({"key": parameter}, 0, number)["key"] for number in range(2000)]
    below = sum(value < median for value in drawn) + sum(value == median for value in drawn) / 2
    assert below == pytest.approx(1000, abs=4.5 * math.sqrt(2000) / 2)


def test_whole_numbers_of_a_range_are_equally_likely_with_both_ends():
    parameter = Parameter(min=2, max=5, distribution="int_uniform")
    at = random.Random(0)
    drawn = [parameter.draw(at) for _ in range(4000)]
    for value in (2, 3, 4, 5):
        assert drawn.count(value) == pytest.approx(1000, abs=4.5 * math.sqrt(750))
    assert parameter.ends == (2, 5)
