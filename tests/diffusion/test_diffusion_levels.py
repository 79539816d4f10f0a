import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import table
from torch import Tensor

from ray_diffusion.diffusion.levels import (
    LOG_SIGMA_MEAN,
    LOG_SIGMA_SD,
    TIMESTEP_SAMPLING,
    Draw,
    Levels,
    draw_levels,
    levels_at,
)
from ray_diffusion.diffusion.random import Draws, generator
from ray_diffusion.diffusion.schedule import SCHEDULES, geometric

WIDE = geometric(5000, sigma_min=1e-4, sigma_max=1e3)  # no lognormal draw is beyond its ends


def drawn(
    name: str,
    levels: Tensor,
    continuous: bool,
    count: int,
    seed: int = 0,
    part: slice = slice(None),
) -> Levels:
    """A global batch of ``count``, or a worker's part of it."""
    own = Draws("own", seed, places=range(count)[part])
    return draw_levels(name, levels, continuous, Draw(own, generator("shared", seed), count))


def timesteps(levels: Tensor, logsnr: Tensor) -> Tensor:
    """Index in the table of levels that are in it."""
    found = len(levels) - 1 - torch.searchsorted(levels.flip(0), logsnr)
    assert levels[found].equal(logsnr)
    return found


def positions(levels: Tensor, logsnr: Tensor) -> Tensor:
    """Positions in the table of any levels, by their share of the gap they lie in."""
    lower = (len(levels) - 1 - torch.searchsorted(levels.flip(0), logsnr)).clamp(0, len(levels) - 2)
    return lower + (levels[lower] - logsnr) / (levels[lower] - levels[lower + 1])


@pytest.mark.parametrize("name", TIMESTEP_SAMPLING)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_whole_positions_are_the_timesteps_and_cleaner_the_one_before(schedule: str, name: str):
    levels = table(schedule, 50)
    at = levels_at(name, levels, torch.arange(50))
    assert at.logsnr.equal(levels)  # to the bit: the first half of a loss depends on it
    assert at.cleaner[0] == torch.inf
    assert at.cleaner[1:].equal(levels[:-1])
    assert (at.density > 0).all()


def test_the_last_timestep_is_exact_for_any_number_of_them():
    for T in range(2, 200):
        levels = table("sigmoid", T)
        assert levels_at("uniform", levels, torch.tensor([T - 1])).logsnr[0] == levels[-1]


def test_between_timesteps_the_level_is_in_proportion():
    levels = table("cosine", 10)
    at = levels_at("uniform", levels, torch.tensor([0.25, 8.5, 9.0]))
    expected = [0.75 * levels[0] + 0.25 * levels[1], (levels[8] + levels[9]) / 2, levels[9]]
    assert at.logsnr.tolist() == pytest.approx([float(value) for value in expected], abs=1e-12)
    assert at.cleaner[0] == torch.inf
    assert at.cleaner[1] == pytest.approx(float(levels[7] + levels[8]) / 2, abs=1e-12)


@pytest.mark.parametrize("name", TIMESTEP_SAMPLING)
def test_only_continuous_families_draw_levels_between_timesteps(name: str):
    levels = table("cosine", 100)
    discrete, continuous = (drawn(name, levels, c, 500).logsnr for c in (False, True))
    timesteps(levels, discrete)
    assert torch.isin(continuous, levels).double().mean() < 0.05  # the ends of lognormal
    assert continuous.min() >= levels[-1]
    assert continuous.max() <= levels[0]


@pytest.mark.parametrize("name", ["uniform", "stratified"])
def test_each_timestep_is_drawn_equally_often(name: str):
    levels, T, batch = table("cosine", 20), 20, 100
    batches = [drawn(name, levels, False, batch, seed).logsnr for seed in range(200)]
    counts = torch.bincount(timesteps(levels, torch.cat(batches)), minlength=T)
    chi2 = ((counts - 200 * batch / T) ** 2 / (200 * batch / T)).sum()
    # Mean T - 1 and standard deviation sqrt(2 (T - 1)) if draws are independent.
    assert chi2 < T - 1 + 4 * (2 * (T - 1)) ** 0.5


@pytest.mark.parametrize("name", ["uniform", "stratified"])
def test_each_position_is_drawn_equally_often_in_continuous_time(name: str):
    levels = table("linear", 30)
    found = positions(levels, drawn(name, levels, True, 20_000).logsnr) / 29
    counts = torch.histc(found, 20, 0, 1)
    assert ((counts - 1000) ** 2 / 1000).sum() < 19 + 4 * 38**0.5


@settings(max_examples=30)
@given(
    T=st.integers(2, 300), seed=st.integers(0, 99), cuts=st.lists(st.integers(1, 63), max_size=4)
)
@pytest.mark.parametrize("continuous", [False, True])
def test_all_workers_together_draw_one_level_of_each_stratum(
    continuous: bool, T: int, seed: int, cuts: list[int]
):
    levels, count = table("cosine", T), 64
    edges = [0, *sorted(set(cuts)), count]
    parts = [slice(*edges[i : i + 2]) for i in range(len(edges) - 1)]
    batches = [drawn("stratified", levels, continuous, count, seed, part) for part in parts]
    logsnr = torch.cat([batch.logsnr for batch in batches])
    assert logsnr.equal(drawn("stratified", levels, continuous, count, seed).logsnr)
    if continuous:
        strata = (positions(levels, logsnr) / (T - 1) * count).floor().long()
        assert strata.sort().values.equal(torch.arange(count))
    else:  # as many of each timestep as fit, give or take one
        counts = torch.bincount(timesteps(levels, logsnr), minlength=T)
        assert set(counts.tolist()) <= {count // T, count // T + 1}


def test_a_place_of_the_stratified_batch_may_get_any_level():
    levels = table("cosine", 100)
    shares = [
        float(positions(levels, drawn("stratified", levels, True, 8, seed).logsnr)[3] / 99)
        for seed in range(500)
    ]
    assert abs(torch.tensor(shares).mean() - 0.5) / (500 * 12) ** -0.5 < 4


@pytest.mark.parametrize("continuous", [False, True])
def test_lognormal_levels_have_their_mean_and_sd(continuous: bool):
    n = 20_000
    log_sigma = drawn("lognormal", WIDE, continuous, n).logsnr / -2
    assert abs(log_sigma.mean() - LOG_SIGMA_MEAN) / (LOG_SIGMA_SD / n**0.5) < 4
    assert abs(log_sigma.std() - LOG_SIGMA_SD) / (LOG_SIGMA_SD / (2 * n) ** 0.5) < 4


def test_lognormal_levels_beyond_the_schedule_are_its_ends():
    levels = geometric(10, sigma_min=0.2, sigma_max=0.4)
    logsnr = drawn("lognormal", levels, True, 2000).logsnr
    assert logsnr.max() == levels[0]
    assert logsnr.min() == levels[-1]
    at_ends = ((logsnr == levels[0]) | (logsnr == levels[-1])).double().mean()
    normal = torch.distributions.Normal(LOG_SIGMA_MEAN, LOG_SIGMA_SD)
    low, high = normal.cdf(torch.tensor([0.2, 0.4]).log())
    expected = float(1 - (high - low))
    assert abs(at_ends - expected) < 4 * (expected * (1 - expected) / 2000) ** 0.5


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", ["uniform", "stratified"])
def test_the_density_of_levels_integrates_to_1(name: str, schedule: str):
    levels = table(schedule, 100)
    density = levels_at(name, levels, torch.arange(100)).density
    # Half the share of the first timestep and half of the last are beyond the table's ends.
    assert float(-torch.trapezoid(density, levels)) == pytest.approx(1 - 1 / 100, abs=1e-12)


def test_the_lognormal_density_integrates_to_1():
    density = levels_at("lognormal", WIDE, torch.arange(len(WIDE))).density
    assert float(-torch.trapezoid(density, WIDE)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "levels"), [("uniform", table("cosine")), ("stratified", table("linear")),
                         ("lognormal", WIDE)]
)  # fmt: skip
def test_levels_are_drawn_as_often_as_the_density_says(name: str, levels: Tensor):
    n, edges = 20_000, torch.linspace(-6, 8, 15, dtype=torch.float64)
    counts = torch.histogram(drawn(name, levels, True, n).logsnr, edges).hist
    table_density = levels_at(name, levels, torch.arange(len(levels))).density
    for k in range(14):
        inside = (levels >= edges[k]) & (levels <= edges[k + 1])
        expected = float(n * table_density[inside].mean())  # a bin is one unit wide
        # Four standard errors, and 2 % because the timesteps do not end at the edges.
        assert abs(counts[k] - expected) < 4 * expected**0.5 + 0.02 * expected, (k, expected)


@pytest.mark.parametrize("name", TIMESTEP_SAMPLING)
def test_a_draw_is_made_again_by_its_generators_alone(name: str):
    levels = table("cosine")
    first, again, other = (drawn(name, levels, True, 16, seed).logsnr for seed in (1, 1, 2))
    assert first.equal(again)
    assert not first.equal(other)
