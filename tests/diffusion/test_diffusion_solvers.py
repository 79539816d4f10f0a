"""Single steps. Whole chains of them are in ``test_diffusion_solver_chains.py``."""

import math

import pytest
import torch
from gaussian_oracle import GaussianOracle
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import table
from torch import Tensor

from ray_diffusion.diffusion.family import FAMILIES
from ray_diffusion.diffusion.gaussian import alpha_sigma, per_example
from ray_diffusion.diffusion.random import generator
from ray_diffusion.diffusion.sampling import draws_noise
from ray_diffusion.diffusion.schedule import PURE_NOISE, SCHEDULES
from ray_diffusion.diffusion.solvers import (
    SOLVERS,
    Options,
    Visit,
    ddim_step,
    ddpm_step,
    heun_step,
    nowhere,
)
from ray_diffusion.diffusion.variance import posterior

ORACLE = GaussianOracle()
# Rows of a batch: the level now, how far the next one is, and how far the last one was.
RISES = st.sampled_from([0.0, math.inf]) | st.floats(0.01, 20)
ROWS = st.lists(
    st.tuples(st.floats(-36, 12), RISES, st.none() | st.floats(0.01, 20)), min_size=1, max_size=6
).map(lambda rows: [row for row in rows if row[1] > 0 or row[2]] or [(0.0, 1.0, None)])


def draws(batch: int, dtype: torch.dtype = torch.float64, count: int = 3) -> list[Tensor]:
    """Independent normal draws, each of shape ``(batch, 2, 3, 3)``."""
    draw = generator("solver test")
    return [torch.randn(batch, 2, 3, 3, generator=draw, dtype=dtype) for _ in range(count)]


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 2e-14), (torch.float32, 9.5e-7)])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddim_with_eta_1_is_the_ancestral_step(schedule: str, dtype: torch.dtype, atol: float):
    levels = table(schedule)
    x_t, x0, noise = draws(999, dtype)
    now = Visit(x_t, levels[1:], x0)
    ddim = ddim_step(now, nowhere(x_t), levels[:-1], noise, Options(eta=1.0))
    ddpm = ddpm_step(now, nowhere(x_t), levels[:-1], noise)
    torch.testing.assert_close(ddim, ddpm, rtol=0, atol=atol)


@given(st.floats(-10, 10), st.floats(0.01, 10))
def test_it_is_so_for_steps_of_any_length(level: float, rise: float):
    x_t, x0, noise = draws(1)
    logsnr = torch.tensor([level], dtype=torch.float64)
    now = Visit(x_t, logsnr, x0)
    ddim = ddim_step(now, nowhere(x_t), logsnr + rise, noise, Options(eta=1.0))
    ddpm = ddpm_step(now, nowhere(x_t), logsnr + rise, noise)
    torch.testing.assert_close(ddim, ddpm, rtol=0, atol=1.1e-12)


@given(st.floats(0, 1), st.floats(-10, 8), st.floats(0.1, 5))
def test_ddim_keeps_the_marginal_at_any_eta(eta: float, level: float, rise: float):
    # Knowing x0, a step from q(x_t | x0) must end in q(x_s | x0), whatever the noise it adds.
    x0 = torch.full((3, 1), 0.7, dtype=torch.float64)
    t = torch.full((3,), level, dtype=torch.float64)
    alpha, sigma = (per_example(value, x0) for value in alpha_sigma(t))
    old, fresh = torch.tensor([[0.0, 0], [1, 0], [0, 1]], dtype=torch.float64).T[..., None]
    now = Visit(alpha * x0 + sigma * old, t, x0)
    base, of_old, of_fresh = ddim_step(now, nowhere(x0), t + rise, fresh, Options(eta=eta))[:, 0]
    alpha_s, sigma_s = alpha_sigma(t[0] + rise)
    assert float(base) == pytest.approx(float(alpha_s) * 0.7, abs=1e-12)
    spread = (of_old - base) ** 2 + (of_fresh - base) ** 2
    assert float(spread) == pytest.approx(float(sigma_s) ** 2, abs=1e-12)
    ancestral = posterior(t[:1], t[:1] + rise).beta_tilde.sqrt()
    assert float(of_fresh - base) == pytest.approx(eta * float(ancestral), abs=1e-12)


@given(st.floats(-25, 10), st.floats(0.01, 10))
def test_the_ancestral_step_is_the_posterior_of_bayes_rule(logsnr_t: float, rise: float):
    ab_t, ab_s = torch.sigmoid(torch.tensor([logsnr_t, logsnr_t + rise], dtype=torch.float64))
    x_t, x0 = torch.full((2, 1), 0.7).double(), torch.full((2, 1), -0.3).double()
    beta = 1 - ab_t / ab_s
    precision = (1 - beta) / beta + 1 / (1 - ab_s)
    mean = ((1 - beta).sqrt() * x_t[0] / beta + ab_s.sqrt() * x0[0] / (1 - ab_s)) / precision
    t = torch.full((2,), logsnr_t, dtype=torch.float64)
    quiet, loud = ddpm_step(
        Visit(x_t, t, x0), nowhere(x_t), t + rise, torch.tensor([[0.0], [1.0]]).double()
    )
    # What is left is the cancellation in 1 - alpha_bar.
    torch.testing.assert_close(quiet, mean, rtol=0, atol=1e-9)
    torch.testing.assert_close(loud - quiet, precision.rsqrt()[None], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_step_to_infinity_ends_in_clean_data(name: str):
    levels = torch.cat([table("cosine")[::100], table("linear")[::100]])
    x_t, x0, noise = draws(len(levels), torch.float32)
    end = SOLVERS[name].step(
        Visit(x_t, levels, x0, x0**2), nowhere(x_t), torch.full_like(levels, torch.inf), noise,
        Options(),
    )  # fmt: skip
    assert end.equal(x0)


@settings(max_examples=15)
@given(ROWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SOLVERS)
def test_a_batch_of_mixed_noise_levels_is_as_many_single_steps(
    name: str, dtype: torch.dtype, rows: list[tuple[float, float, float | None]]
):
    now_level = torch.tensor([row[0] for row in rows], dtype=torch.float64)
    next_level = now_level + torch.tensor([row[1] for row in rows], dtype=torch.float64)
    since = torch.tensor([row[2] or math.nan for row in rows], dtype=torch.float64)
    x_t, x0, x0_var, noise, x_before, x0_before = draws(len(rows), dtype, 6)

    def step(row: slice, options: Options) -> Tensor:
        now = Visit(x_t[row], now_level[row], x0[row], x0_var[row] ** 2)
        before = Visit(x_before[row], (now_level - since)[row], x0_before[row])
        return SOLVERS[name].step(now, before, next_level[row], noise[row], options)

    every = {family.signal for family in FAMILIES.values()}
    for options in [Options(eta=0.5, signal=signal) for signal in every] + [
        Options(upper_variance=True)
    ]:
        together = step(slice(None), options)
        assert together.dtype == dtype
        assert together.isfinite().all()
        for i in range(len(rows)):
            assert step(slice(i, i + 1), options)[0].equal(together[i])


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_solvers_that_say_so_ignore_their_noise(eta: float):
    levels, options = table("cosine", 100), Options(eta=eta)
    x_t, x0, noise = draws(50)
    now = Visit(x_t, levels[50:], x0)
    for name, solver in SOLVERS.items():
        first, second = (
            solver.step(now, nowhere(x_t), levels[:50], n, options) for n in (noise, -noise)
        )
        assert first.equal(second) is not draws_noise(name, options), name


@pytest.mark.parametrize("name", SOLVERS)
def test_only_solvers_that_look_twice_change_a_point_at_its_level(name: str):
    levels = table("cosine", 100)
    x_t, x0, noise, x_before, x0_before = draws(50, count=5)
    now = Visit(x_t, levels[:50], x0)
    before = Visit(x_before, levels[50:], x0_before)
    moved = SOLVERS[name].step(now, before, levels[:50], noise, Options())
    if SOLVERS[name].visits == 1:
        torch.testing.assert_close(moved, x_t, rtol=0, atol=1e-12)
    else:
        assert not torch.isclose(moved, x_t).any()


def test_ddim_by_its_other_name_is_euler():
    assert SOLVERS["euler"] == SOLVERS["ddim"]


@pytest.mark.parametrize("levels", [(-10.0, -8.0), (0.0, 2.0), (5.0, 9.0)])
def test_heun_takes_the_mean_of_the_slopes_in_the_time_of_its_paper(levels: tuple[float, float]):
    # Karras et al. 2022, algorithm 1, in y = x / alpha and time sigma / alpha.
    x, x0, x0_ahead = draws(1)
    t, s = (torch.tensor([level], dtype=torch.float64) for level in levels)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(t), alpha_sigma(s)
    y, time, ahead = x / alpha_t, sigma_t / alpha_t, sigma_s / alpha_s
    slope = (y - x0) / time
    y_ahead = y + (ahead - time) * slope
    expected = alpha_s * (y + (ahead - time) * (slope + (y_ahead - x0_ahead) / ahead) / 2)
    first = Visit(x, t, x0)
    predicted = heun_step(first, nowhere(x), s, x)
    torch.testing.assert_close(predicted, alpha_s * y_ahead)
    found = heun_step(Visit(predicted, s, x0_ahead), first, s, x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SOLVERS)
def test_steps_from_pure_noise_survive_float32(name: str):
    # x / alpha is 1e8 there, and a solver that passes through it keeps no digit of clean data.
    t = torch.full((50,), PURE_NOISE, dtype=torch.float64)
    s = torch.full_like(t, -5.0)

    def stepped(dtype: torch.dtype) -> Tensor:
        x_t, x0, noise = (value.to(dtype) for value in draws(50))
        first = Visit(x_t, t, x0)
        point = SOLVERS[name].step(first, nowhere(x_t), s, noise, Options())
        if name != "heun":
            return point
        return heun_step(Visit(point, s, x0 / 2), first, s, noise)

    exact = stepped(torch.float64)
    error = (stepped(torch.float32).double() - exact).abs().max() / exact.abs().max()
    assert error < 1e-6
