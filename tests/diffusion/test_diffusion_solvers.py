import functools

import pytest
import torch
from gaussian_oracle import GaussianOracle
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ray_diffusion.diffusion.random import generator
from ray_diffusion.diffusion.sampling import sample, trailing_grid
from ray_diffusion.diffusion.schedule import SCHEDULES, table
from ray_diffusion.diffusion.solvers import SOLVERS, ddim_step, ddpm_step

ORACLE = GaussianOracle()


def draws(batch: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """``x_t``, ``x0`` and ``noise``, shape ``(batch, 2, 3, 3)``."""
    draw = generator("solver test")
    return [torch.randn(batch, 2, 3, 3, generator=draw, dtype=dtype) for _ in range(3)]


@pytest.mark.parametrize("stride", [1, 50, 333])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddim_with_eta_1_is_the_ancestral_step(schedule: str, stride: int):
    levels = table(schedule, 1000)
    logsnr_t, logsnr_s = levels[stride:], levels[:-stride]
    x_t, x0, noise = draws(len(logsnr_t))
    ddim = ddim_step(x_t, x0, logsnr_t, logsnr_s, noise, eta=1.0)
    ddpm = ddpm_step(x_t, x0, logsnr_t, logsnr_s, noise)
    # float64 keeps 1e-16. What cancels is 1 - alpha_bar at the clean end and, in DDIM, what the
    # fresh noise leaves of the old at the noisy end; both are about 5e-5 there.
    assert (ddim - ddpm).abs().max() < 1e-11
    middle = (logsnr_t > -10) & (logsnr_s < 5)
    assert (ddim - ddpm)[middle].abs().max() < 1e-13


@given(st.floats(-25, 10), st.floats(0.01, 10))
def test_the_ancestral_step_is_the_posterior_of_bayes_rule(logsnr_t: float, rise: float):
    # q(x_s | x_t, x0) is q(x_t | x_s) q(x_s | x0): two Gaussians in x_s, precisions added.
    ab_t, ab_s = torch.sigmoid(torch.tensor([logsnr_t, logsnr_t + rise], dtype=torch.float64))
    x_t, x0 = 0.7, -0.3
    beta = 1 - ab_t / ab_s
    precision = (1 - beta) / beta + 1 / (1 - ab_s)
    mean = ((1 - beta).sqrt() * x_t / beta + ab_s.sqrt() * x0 / (1 - ab_s)) / precision

    def step(noise: float) -> Tensor:
        values = (torch.tensor([[value]], dtype=torch.float64) for value in (x_t, x0))
        t, s = torch.tensor([[logsnr_t], [logsnr_t + rise]], dtype=torch.float64)
        return ddpm_step(*values, t, s, torch.full((1, 1), noise, dtype=torch.float64))[0, 0]

    # Levels pass through no float32; what is left is the cancellation in 1 - alpha_bar.
    torch.testing.assert_close(step(0.0), mean, rtol=0, atol=1e-9)
    std = step(1.0) - step(0.0)
    torch.testing.assert_close(std, precision.rsqrt(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_step_to_infinity_ends_in_clean_data(name: str):
    levels = torch.cat([table("cosine", 1000)[::100], table("linear", 1000)[::100]])
    x_t, x0, noise = draws(len(levels), torch.float32)
    end = SOLVERS[name].step(x_t, x0, levels, torch.full_like(levels, torch.inf), noise)
    assert end.equal(x0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SOLVERS)
def test_a_batch_of_mixed_noise_levels_is_as_many_single_steps(name: str, dtype: torch.dtype):
    step, levels = SOLVERS[name].step, table("linear", 1000)
    logsnr_t, logsnr_s = levels[[999, 500, 20, 0]], levels[[998, 100, 10, 0]]
    logsnr_s[-1] = torch.inf
    x_t, x0, noise = draws(4, dtype)
    together = step(x_t, x0, logsnr_t, logsnr_s, noise)
    assert together.dtype == dtype
    for i in range(4):
        row = slice(i, i + 1)
        alone = step(x_t[row], x0[row], logsnr_t[row], logsnr_s[row], noise[row])
        assert alone.equal(together[row])


def test_solvers_that_say_so_ignore_their_noise():
    levels = table("cosine", 100)
    x_t, x0, noise = draws(50)
    for name, (step, stochastic) in SOLVERS.items():
        first, second = (step(x_t, x0, levels[50:], levels[:50], n) for n in (noise, -noise))
        assert first.equal(second) is not stochastic, name


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("num_steps", [10, 100])
def test_the_ancestral_chain_has_the_mean_and_sd_of_its_recursion(schedule: str, num_steps: int):
    grid = trailing_grid(table(schedule, 1000), num_steps)
    mean, sd = ORACLE.ancestral_chain(grid)
    # One image of 40,000 pixels: with this denoiser each is a chain of its own.
    x = sample(ORACLE, torch.zeros(1).long(), (1, 200, 200), grid, "ddpm", 0, [0]).double()
    n = x.numel()
    assert abs(x.mean() - mean) / (sd / n**0.5) < 4
    assert abs(x.std() - sd) / (sd / (2 * n) ** 0.5) < 4


def test_many_ancestral_steps_find_the_data():
    mean, sd = ORACLE.ancestral_chain(trailing_grid(table("cosine", 1000), 1000))
    assert mean == pytest.approx(0.4, abs=1e-3)
    assert sd == pytest.approx(0.25, abs=3e-3)


@functools.cache
def ddim_error(num_steps: int) -> float:
    """Distance of DDIM from the exact probability flow, on a grid uniform in logsnr."""
    grid = torch.linspace(-10, 8, num_steps + 1, dtype=torch.float64)
    start = x = torch.linspace(-3, 3, 101, dtype=torch.float64).view(1, -1)
    for logsnr_t, logsnr_s in zip(grid[:-1, None], grid[1:, None], strict=True):
        x0 = ORACLE(x, logsnr_t, torch.zeros(1).long())
        x = ddim_step(x, x0, logsnr_t, logsnr_s, x)
    return float((x - ORACLE.ode_map(start, grid[0], grid[-1])).abs().max())


@pytest.mark.parametrize("num_steps", [80, 160, 320])
def test_ddim_converges_to_the_probability_flow_with_order_1(num_steps: int):
    assert ddim_error(num_steps) / ddim_error(2 * num_steps) == pytest.approx(2, abs=0.1)
