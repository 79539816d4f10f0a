import math
import re

import pytest
import torch
from gaussian_oracle import GaussianOracle
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial.hermite_e import hermegauss
from tables import table
from torch import Tensor
from torch.nn.functional import softplus

from ray_diffusion.diffusion.denoiser import Estimate
from ray_diffusion.diffusion.gaussian import add_noise, alpha_sigma, per_example
from ray_diffusion.diffusion.profile import (
    PROFILE_LEVELS,
    SCORE_LEVELS,
    SCORE_VERSION,
    chain_bpd,
    coverage,
    eps_error,
    error_at,
    fingerprint,
    score,
    vlb_bpd,
    x0_variance,
)
from ray_diffusion.diffusion.random import generator
from ray_diffusion.diffusion.schedule import SCHEDULES

ORACLE = GaussianOracle()
LEVELS = torch.tensor(PROFILE_LEVELS, dtype=torch.float64)
PROFILE = ORACLE.eps_mse(LEVELS)


def gaussian_bits(first: float, last: float) -> float:
    """``1/2 int e d logsnr`` of the Gaussian data, in closed form."""
    ends = torch.tensor([first, last], dtype=torch.float64) + 2 * math.log(ORACLE.sd)
    return float(softplus(ends).diff()) / 2 / math.log(2)


def coin_profile() -> Tensor:
    """The error of the best denoiser of data that is 1 or -1, ``tanh(alpha / sigma^2 x_t)``."""
    nodes, weights = (torch.from_numpy(value) for value in hermegauss(200))
    snr = LEVELS.exp()[:, None]
    mean = ((weights / weights.sum()) * torch.tanh(snr + snr.sqrt() * nodes)).sum(1)
    return LEVELS.exp() * (1 - mean)


def test_the_error_of_a_perfect_model_follows_its_law_at_every_level():
    n, draw = 200_000, generator("profile law")
    for level in range(-8, 9, 2):
        x0 = 0.4 + 0.25 * torch.randn(n, 1, generator=draw, dtype=torch.float64)
        noise = torch.randn(n, 1, generator=draw, dtype=torch.float64)
        logsnr = torch.full((n,), float(level), dtype=torch.float64)
        errors = eps_error(ORACLE, x0, torch.zeros(n).long(), logsnr, noise)
        law = float(torch.sigmoid(logsnr[0] + 2 * math.log(0.25)))
        # The error is the square of a normal variable: its standard deviation is sqrt(2) e.
        z = (errors.mean() - law) / (law * (2 / n) ** 0.5)
        assert abs(z) < 3.5, (level, float(z))


@given(st.lists(st.floats(-9, 9), min_size=3, max_size=3))
def test_the_error_is_that_of_the_noise_that_an_estimate_implies(levels: list[float]):
    draw = generator("implied noise")
    x0, noise, guess = (
        torch.randn(3, 2, 3, 3, generator=draw, dtype=torch.float64) for _ in range(3)
    )
    logsnr = torch.tensor(levels, dtype=torch.float64)
    alpha, sigma = (per_example(value, x0) for value in alpha_sigma(logsnr))
    eps = (add_noise(x0, noise, logsnr) - alpha * guess) / sigma
    found = eps_error(lambda *_: Estimate(guess), x0, torch.zeros(3).long(), logsnr, noise)
    torch.testing.assert_close(found, (eps - noise).square().mean((1, 2, 3)), rtol=1e-9, atol=0)


def test_the_score_is_the_mean_over_its_own_levels():
    assert score(torch.ones(19)) == 1
    assert score(LEVELS) == sum(SCORE_LEVELS) / len(SCORE_LEVELS) == -1
    assert score(PROFILE) == pytest.approx(
        sum(float(ORACLE.eps_mse(torch.tensor(float(k)))) for k in range(-6, 5)) / 11
    )


def test_the_bound_between_fixed_ends_is_the_integral_of_the_error():
    # The trapezoid rule is off by the difference of the slopes at the ends, over 12.
    assert vlb_bpd(PROFILE) == pytest.approx(gaussian_bits(-8, 7), rel=5e-4)
    assert vlb_bpd(torch.ones(19)) == pytest.approx(15 / 2 / math.log(2))


def test_prior_bound_and_decoder_add_up_to_the_entropy_of_the_data():
    # Kingma et al. 2021, all terms in nats per dimension; the chain's part is chain_bpd.
    first, last, mean, sd = -9.0, 9.0, 0.4, 0.25
    alpha_bar, rest = torch.sigmoid(torch.tensor([first, -first], dtype=torch.float64)).tolist()
    prior = (alpha_bar * (sd**2 + mean**2) + rest - 1 - math.log(rest)) / 2
    chain = chain_bpd(PROFILE, LEVELS) * math.log(2)
    decoder = (math.log(2 * math.pi * math.e) - last) / 2  # x0 ~ N(x_t / alpha, exp(-last))
    entropy = math.log(2 * math.pi * math.e * sd**2) / 2
    seen = alpha_bar * sd**2 + rest  # variance of x_T, which the prior takes for 1
    mismatch = (seen + alpha_bar * mean**2 - 1 - math.log(seen)) / 2
    slack = math.log1p(math.exp(-last) / sd**2) / 2
    assert prior + chain + decoder == pytest.approx(entropy + mismatch + slack, abs=1e-12)


@pytest.mark.parametrize("stride", [1, 2, 3, 6, 9, 18])
def test_with_the_best_variances_a_chain_on_gaussian_data_loses_nothing(stride: int):
    assert chain_bpd(PROFILE, LEVELS[::stride]) == pytest.approx(gaussian_bits(-9, 9), abs=1e-12)


def test_a_chain_on_other_data_costs_less_with_more_steps_and_never_less_than_the_integral():
    profile = coin_profile()
    integral = float(torch.trapezoid(profile)) / 2 / math.log(2)
    # What x_t at logsnr 9 tells of a coin and x_t at -9 does not: one bit.
    assert integral == pytest.approx(1, abs=1e-3)
    bits = [
        chain_bpd(profile, torch.linspace(-9, 9, steps + 1, dtype=torch.float64))
        for steps in (2, 4, 8, 24, 100, 1000)
    ]
    assert bits == sorted(bits, reverse=True)
    assert bits[0] > 3
    assert integral < bits[-1] < integral + 0.01


@given(st.floats(-12, 12))
def test_between_its_levels_a_profile_is_linear_and_beyond_constant(level: float):
    at = max(-9.0, min(9.0, level))
    found = float(error_at(3 * LEVELS + 1, torch.tensor([level], dtype=torch.float64)))
    assert found == pytest.approx(3 * at + 1, abs=1e-9)


def test_at_its_levels_it_is_itself():
    assert error_at(PROFILE, LEVELS).equal(PROFILE)


def test_from_the_error_follows_the_variance_of_clean_data():
    torch.testing.assert_close(x0_variance(PROFILE), ORACLE.x0_var(LEVELS), rtol=1e-12, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_schedules_train_all_levels_of_the_score(schedule: str):
    assert coverage(table(schedule)) == 1


def test_levels_that_a_schedule_does_not_train_are_not_covered():
    unscaled = table("linear", 250, scale_betas=False)  # it ends at -2.45
    assert coverage(unscaled) == pytest.approx(7 / 11)
    assert coverage(torch.tensor([2.0, -3.4])) == pytest.approx(2 / 11)


def test_the_fingerprint_of_scores_names_their_version():
    assert re.fullmatch(re.escape(SCORE_VERSION) + "-[0-9a-f]{8}", fingerprint())
    assert fingerprint() == fingerprint()
