import math

import numpy as np
import pytest
import torch
from gaussian_oracle import GaussianOracle
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import table
from torch import Tensor

from ray_diffusion.diffusion.denoiser import Estimate
from ray_diffusion.diffusion.grids import (
    CLEANEST,
    GRIDS,
    NOISE_KEPT,
    NOISIEST,
    ends,
    itinerary,
)
from ray_diffusion.diffusion.sampling import sample
from ray_diffusion.diffusion.schedule import SCHEDULES, with_zero_terminal_snr
from ray_diffusion.diffusion.solvers import SOLVERS

TIMESTEPS = ["trailing", "leading", "linspace"]


@settings(max_examples=20)
@given(T=st.integers(2, 1000), share=st.floats(0, 1))
@pytest.mark.parametrize("schedule", ["linear", "cosine", "sub_vp", "edm"])
@pytest.mark.parametrize("grid", GRIDS)
def test_a_grid_has_as_many_rising_levels_as_are_asked_for(
    grid: str, schedule: str, T: int, share: float
):
    levels, count = table(schedule, T), 1 + round(share * (T - 1))
    found = GRIDS[grid](levels, count)
    assert found.shape == (count,)
    assert found.dtype == torch.float64
    assert found.isfinite().all()
    assert (found.diff() > 0).all()
    if grid in TIMESTEPS:
        assert torch.isin(found, levels).all()


@given(T=st.integers(2, 1000), share=st.floats(0, 1))
def test_trailing_timesteps_are_those_of_diffusers(T: int, share: float):
    count = 1 + round(share * (T - 1))
    theirs = np.round(np.arange(T, 0, -T / count)).astype(np.int64)[:count] - 1
    off = np.abs(GRIDS["trailing"](torch.arange(T), count).numpy() - theirs)
    # Theirs adds up rounding, which decides exact halves.
    halves = (2 * T * (count - np.arange(count))) % (2 * count) == count
    assert (off <= halves).all()


@given(T=st.integers(2, 1000), share=st.floats(0, 1))
def test_leading_and_linspace_timesteps_are_those_of_diffusers(T: int, share: float):
    count = 1 + round(share * (T - 1))
    leading = (np.arange(0, count) * (T // count)).round()[::-1].astype(np.int64)
    linspace = np.linspace(0, T - 1, count).round()[::-1].astype(np.int64)
    assert GRIDS["leading"](torch.arange(T), count).tolist() == leading.tolist()
    if count > 1:  # one timestep of theirs is the cleanest, from which nothing can start
        off = np.abs(GRIDS["linspace"](torch.arange(T), count).numpy() - linspace)
        halves = (2 * (T - 1) * np.arange(count)) % (2 * (count - 1)) == count - 1
        assert (off <= halves[::-1]).all()  # theirs counts from the other end, which decides them


@pytest.mark.parametrize(
    ("count", "timesteps"),
    [(1, [9]), (2, [9, 4]), (5, [9, 7, 5, 3, 1]), (10, range(9, -1, -1))],
)
def test_a_trailing_grid_is_even_in_timesteps(count: int, timesteps: list[int]):
    levels = table("cosine", 10)
    assert GRIDS["trailing"](levels, count).equal(levels[list(timesteps)])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("grid", sorted(set(GRIDS) - {"leading"}))
def test_one_level_is_the_noisiest(grid: str, schedule: str):
    levels = table(schedule)
    noisiest = levels[-1] if grid in TIMESTEPS else max(float(levels[-1]), NOISIEST)
    assert GRIDS[grid](levels, 1).tolist() == pytest.approx([float(noisiest)], abs=1e-12)


@pytest.mark.parametrize("grid", ["uniform_logsnr", "karras"])
def test_grids_of_levels_run_between_the_ends_worth_a_visit(grid: str):
    for levels in (table("linear"), table("sub_vp"), with_zero_terminal_snr(table("cosine"))):
        found = GRIDS[grid](levels, 17)[[0, -1]].tolist()
        assert found == pytest.approx(ends(levels), abs=1e-9)
        assert NOISIEST <= found[0] < found[1] <= CLEANEST


def test_uniform_logsnr_is_uniform():
    steps = GRIDS["uniform_logsnr"](table("cosine"), 12).diff()
    torch.testing.assert_close(steps, steps.mean().expand(11))


def test_karras_levels_are_even_in_the_seventh_root_of_sigma():
    # Karras et al. 2022, equation 5.
    levels = GRIDS["karras"](table("edm", sigma_min=0.02, sigma_max=80.0), 18)
    share = torch.arange(18, dtype=torch.float64) / 17
    sigmas = (80 ** (1 / 7) + share * (0.02 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(torch.exp(levels / -2), sigmas)


def test_each_step_of_the_geometric_grid_keeps_nine_tenths_of_the_noise():
    levels = GRIDS["geometric"](table("cosine"), 100)
    assert levels[0] == NOISIEST
    ratios = torch.exp(levels.diff() / -2)
    torch.testing.assert_close(ratios, torch.full_like(ratios, NOISE_KEPT))
    assert float(levels.diff()[0]) == pytest.approx(0.2107, abs=5e-5)


@pytest.mark.parametrize("count", [0, -1, 11])
@pytest.mark.parametrize("grid", TIMESTEPS)
def test_more_timesteps_than_there_are_or_none_are_refused(grid: str, count: int):
    with pytest.raises(ValueError, match=rf"must have 1\.\.10 timesteps, got {count}"):
        GRIDS[grid](table("cosine", 10), count)


@given(steps=st.integers(1, 60), visits=st.integers(1, 6))
@pytest.mark.parametrize("grid", GRIDS)
def test_an_itinerary_has_one_level_for_each_evaluation_and_then_clean_data(
    grid: str, steps: int, visits: int
):
    found = itinerary(grid, table("cosine", 60), steps, visits)
    assert found.shape == (steps + 1,)
    assert found[-1] == torch.inf
    assert (found.diff() >= 0).all()
    _, counts = found[:-1].unique_consecutive(return_counts=True)
    assert counts[0] == 1
    assert counts[1:-1].eq(visits).all()
    assert counts[-1] <= visits


def test_an_itinerary_visits_each_level_after_the_first_as_often_as_its_solver_looks():
    a, b, c = GRIDS["uniform_logsnr"](table("edm"), 3).tolist()
    found = itinerary("uniform_logsnr", table("edm"), 5, 2)
    assert found.tolist() == [a, b, b, c, c, math.inf]
    assert itinerary("uniform_logsnr", table("edm"), 4, 2).tolist() == [a, b, b, c, math.inf]


@pytest.mark.parametrize("grid", GRIDS)
def test_solvers_that_look_twice_start_where_there_is_signal(grid: str):
    # Corrections in x_t / alpha would explode at a level of noise alone.
    bent = with_zero_terminal_snr(table("cosine"))
    assert (itinerary(grid, bent, 9, 2) >= NOISIEST).all()
    # Unless so many levels are asked for that there are none to spare.
    few = with_zero_terminal_snr(table("cosine", 10))
    assert itinerary("trailing", few, 19, 2)[0] == few[-1]


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 11])
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_evaluates_the_network_as_often_as_asked(solver: str, steps: int):
    calls, oracle = [], GaussianOracle()

    def model(x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Estimate:
        calls.append(float(logsnr[0]))
        return oracle(x_t, logsnr, condition)

    levels = itinerary("trailing", table("cosine"), steps, SOLVERS[solver].visits)
    x = sample(model, torch.zeros(1).long(), (1, 2, 2), levels, solver, 0, [0])
    assert calls == levels[:-1].tolist()
    assert x.isfinite().all()
