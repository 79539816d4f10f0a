"""What solvers make of a whole chain, where the perfect denoiser and the answer are known."""

import functools
import math

import pytest
import torch
from gaussian_oracle import GaussianOracle
from tables import table
from torch import Tensor

from ray_diffusion.diffusion.gaussian import alpha_sigma
from ray_diffusion.diffusion.grids import itinerary
from ray_diffusion.diffusion.random import generator
from ray_diffusion.diffusion.sampling import sample, visit
from ray_diffusion.diffusion.schedule import SCHEDULES
from ray_diffusion.diffusion.solvers import (
    ANNEALED_STEP,
    CORRECTOR_STEP,
    DEFAULTS,
    SOLVERS,
    Options,
    Step,
    Visit,
    ddim_step,
    ddpm_step,
    langevin_step,
    nowhere,
    predictor_corrector_step,
)

ORACLE = GaussianOracle()
ZERO = torch.zeros(1, dtype=torch.int64)
VARIANCES = {  # how each is asked for: options, and whether the model tells the variance of x0
    "beta_tilde": (DEFAULTS, False),
    "beta": (Options(upper_variance=True), True),
    "analytic": (DEFAULTS, True),
}


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("T", [5, 24, 100])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_ancestral_chain_follows_its_recursion(schedule: str, T: int, variance: str):
    grid = itinerary("trailing", table(schedule, T), T)
    end = ORACLE.end_of(ddpm_step, grid, *VARIANCES[variance])
    assert end == pytest.approx(ORACLE.ancestral_chain(grid, variance), abs=1e-6)


@pytest.mark.parametrize(
    ("variance", "sd"), [("beta_tilde", 0.1799), ("beta", 0.2984), ("analytic", 0.2498)]
)
def test_with_24_steps_the_variance_decides_the_spread_of_samples(variance: str, sd: float):
    grid = itinerary("trailing", table("custom", 24), 24)
    assert ORACLE.ancestral_chain(grid, variance) == pytest.approx((0.4, sd), abs=5e-5)
    # One image of 40,000 pixels: with this denoiser each is a chain of its own.
    options, told = VARIANCES[variance]
    model = ORACLE.with_variance if told else ORACLE
    x = sample(model, ZERO, (1, 200, 200), grid, "ddpm", 0, [0], options).double()
    mean, sd = ORACLE.ancestral_chain(grid, variance)
    assert abs(x.mean() - mean) / (sd / 200) < 4
    assert abs(x.std() - sd) / (sd / (2**0.5 * 200)) < 4


@pytest.mark.parametrize("T", [24, 50, 100, 250, 1000])
def test_the_analytic_variance_helps_most_at_few_steps(T: int):
    fixed = {24: 0.205, 50: 0.223, 100: 0.235, 250: 0.243, 1000: 0.248}
    analytic = {24: 0.239, 50: 0.247, 100: 0.249, 250: 0.250, 1000: 0.250}
    grid = itinerary("trailing", table("cosine", T), T)
    assert ORACLE.ancestral_chain(grid)[1] == pytest.approx(fixed[T], abs=6e-4)
    assert ORACLE.ancestral_chain(grid, "analytic")[1] == pytest.approx(analytic[T], abs=6e-4)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_many_steps_of_ddim_find_the_data_at_any_eta(eta: float):
    grid = itinerary("trailing", table("cosine"), 1000)
    mean, sd = ORACLE.end_of(ddim_step, grid, Options(eta=eta))
    assert mean == pytest.approx(0.4, abs=1e-3)
    assert sd == pytest.approx(0.25, abs=3e-3)


@functools.cache
def flow_error(name: str, steps: int) -> float:
    """Distance from the exact probability flow, on a grid uniform in logsnr."""
    levels = torch.linspace(-10, 8, steps + 1, dtype=torch.float64)
    step, visits = SOLVERS[name].step, SOLVERS[name].visits
    stops = torch.cat([levels[:1], levels[1:].repeat_interleave(visits)])
    start = x = torch.linspace(-3, 3, 101, dtype=torch.float64)[None]
    before = nowhere(x)
    for k in range(len(stops) - 1):
        now = visit(ORACLE, x, stops[k : k + 1], ZERO)
        x, before = step(now, before, stops[k + 1 : k + 2], x, DEFAULTS), now
    return float((x - ORACLE.ode_map(start, levels[0], levels[-1])).abs().max())


@pytest.mark.parametrize(("name", "ratio"), [("ddim", 1.99), ("dpmpp_2m", 3.99), ("heun", 4.03)])
def test_solvers_converge_to_the_probability_flow_with_their_order(name: str, ratio: float):
    assert flow_error(name, 160) / flow_error(name, 320) == pytest.approx(ratio, abs=0.005)


def test_second_order_pays_at_equal_cost():
    # 160 calls of the network: Heun makes two per step.
    assert flow_error("dpmpp_2m", 160) < flow_error("heun", 80) < flow_error("ddim", 160) / 5


def test_adding_back_a_share_of_the_noise_is_ddim_on_the_geometric_grid():
    start = torch.linspace(-3, 3, 101, dtype=torch.float64)[None]
    levels = itinerary("geometric", table("cosine"), 100)[:-1]
    # The loop, in data plus sigma * noise: subtract the predicted noise, add back 0.9 of it.
    sigma = math.exp(-float(levels[0]) / 2)
    y = start * (1 + sigma**2) ** 0.5
    x, before = start, nowhere(start)
    for k in range(99):
        gain = ORACLE.sd**2 / (ORACLE.sd**2 + sigma**2)
        clean = 0.4 + gain * (y - 0.4)
        y = clean + 0.9 * (y - clean)
        sigma *= 0.9
        x = ddim_step(visit(ORACLE, x, levels[k : k + 1], ZERO), before, levels[k + 1 : k + 2], x)
    assert sigma == pytest.approx(math.exp(5) * 0.9**99)
    difference = (x * (1 + sigma**2) ** 0.5 - y).abs().max()
    assert difference < 1.3e-13


def stationary(step: Step, level: float, length: float) -> tuple[float, float, float]:
    """The spread that a correction keeps: iterated, by its closed form, and that of the data."""
    logsnr = torch.tensor([level] * 400, dtype=torch.float64)
    found = ORACLE.end_of(step, logsnr)[1]
    alpha, sigma = (float(value[0]) for value in alpha_sigma(logsnr))
    target = (alpha * ORACLE.sd) ** 2 + sigma**2
    # Langevin with step epsilon on N(., 1 / k) has the variance 1 / k / (1 - epsilon k / 2).
    return found, (target / (1 - length * sigma**2 / target / 2)) ** 0.5, target**0.5


@pytest.mark.parametrize("level", [-4.0, 0.0, 2.0])
@pytest.mark.parametrize(
    ("step", "length"),
    [(langevin_step, ANNEALED_STEP), (predictor_corrector_step, CORRECTOR_STEP)],
)
def test_unadjusted_langevin_has_its_closed_form_spread(step: Step, length: float, level: float):
    found, closed, data = stationary(step, level, length)
    assert found == pytest.approx(closed, rel=1e-6)
    assert 1 < closed / data < 1.03


def test_simulated_langevin_steps_have_it_too():
    logsnr, n = torch.tensor([0.0], dtype=torch.float64), 40_000
    draw = generator("langevin")
    x = torch.randn(1, n, generator=draw, dtype=torch.float64)
    for _ in range(100):
        now = visit(ORACLE, x, logsnr, ZERO)
        noise = torch.randn(1, n, generator=draw, dtype=torch.float64)
        x = langevin_step(now, now, logsnr, noise)
    _, sd, data = stationary(langevin_step, 0.0, ANNEALED_STEP)
    assert abs(x.std() - sd) / (sd / (2 * n) ** 0.5) < 4
    assert abs(x.std() - data) / (data / (2 * n) ** 0.5) > 4  # n is enough to see the excess


@pytest.mark.parametrize("name", ["predictor_corrector", "langevin"])
def test_with_many_visits_the_corrected_chains_find_the_data(name: str):
    visits = SOLVERS[name].visits
    few, many = (
        ORACLE.end_of(
            SOLVERS[name].step, itinerary("uniform_logsnr", table("linear"), n * visits, visits)
        )
        for n in (60, 300)
    )
    assert many == pytest.approx((0.4, 0.25), abs=9e-3)
    assert abs(many[1] - 0.25) < abs(few[1] - 0.25) / 4


def test_the_history_of_2m_is_the_visit_before():
    # Where the estimate grows linearly in half the logsnr, 2M extrapolates it to the middle.
    levels = torch.tensor([[-2.0], [0.0], [1.0]], dtype=torch.float64)

    def estimate(level: Tensor) -> Tensor:
        return (3 + level / 2)[None]

    x = torch.zeros(1, 1, dtype=torch.float64)
    before, now = (Visit(x, levels[k], estimate(levels[k])) for k in (0, 1))
    found = SOLVERS["dpmpp_2m"].step(now, before, levels[2], x, DEFAULTS)
    middle = Visit(x, levels[1], estimate(torch.tensor([0.5], dtype=torch.float64)))
    torch.testing.assert_close(found, ddim_step(middle, before, levels[2], x))


def test_a_first_visit_has_no_history():
    x: Tensor = torch.ones(1, 1, dtype=torch.float64)
    level = torch.zeros(1, dtype=torch.float64)
    now = Visit(x, level, x / 2)
    found = SOLVERS["dpmpp_2m"].step(now, nowhere(x), level + 1, x, DEFAULTS)
    torch.testing.assert_close(found, ddim_step(now, nowhere(x), level + 1, x))
