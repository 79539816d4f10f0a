import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import table
from torch import Tensor

from ray_diffusion.diffusion.gaussian import add_noise, alpha_sigma, per_example
from ray_diffusion.diffusion.parameterization import (
    PARAMETERIZATIONS,
    SIGMA_DATA,
    eps_error_per_error,
    network_input,
    target,
    to_x0,
)
from ray_diffusion.diffusion.random import generator
from ray_diffusion.diffusion.schedule import SCHEDULES

LEVELS = st.lists(st.floats(-12, 12), min_size=8, max_size=8)
WELL_CONDITIONED = set(PARAMETERIZATIONS) - {"epsilon", "score"}  # which divide by alpha


def draws(batch: int) -> tuple[Tensor, Tensor]:
    """Clean data in [-1, 1] and noise, float64, shape ``(batch, 2, 3, 3)``."""
    draw = generator("parameterization test")
    x0 = torch.rand(batch, 2, 3, 3, generator=draw, dtype=torch.float64) * 2 - 1
    return x0, torch.randn(x0.shape, generator=draw, dtype=torch.float64)


@settings(max_examples=20)
@given(LEVELS)
@pytest.mark.parametrize("dst", PARAMETERIZATIONS)
@pytest.mark.parametrize("src", PARAMETERIZATIONS)
def test_any_prediction_becomes_any_other_and_comes_back(src: str, dst: str, levels: list[float]):
    logsnr = torch.tensor(levels, dtype=torch.float64)
    x0, noise = draws(len(levels))
    x_t = add_noise(x0, noise, logsnr)
    alpha, sigma = (per_example(value, x_t) for value in alpha_sigma(logsnr))

    def converted(prediction: Tensor, src: str, dst: str) -> Tensor:
        implied = to_x0(src, prediction, x_t, logsnr)
        return target(dst, implied, (x_t - alpha * implied) / sigma, logsnr)

    start = target(src, x0, noise, logsnr)
    there = converted(start, src, dst)
    # alpha / sigma and its inverse are up to 400 here, and float64 keeps 1e-16.
    torch.testing.assert_close(there, target(dst, x0, noise, logsnr), rtol=0, atol=1e-12)
    torch.testing.assert_close(converted(there, dst, src), start, rtol=0, atol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_a_perfect_prediction_leads_back_to_clean_data(name: str, schedule: str):
    logsnr = table(schedule)[::37]
    x0, noise = draws(len(logsnr))
    found = to_x0(name, target(name, x0, noise, logsnr), add_noise(x0, noise, logsnr), logsnr)
    # Epsilon and score divide by alpha, 4e-5 at logsnr -20.
    atol = 1e-14 if name in WELL_CONDITIONED else 1e-11
    torch.testing.assert_close(found, x0, rtol=0, atol=atol)


@pytest.mark.parametrize("name", sorted(WELL_CONDITIONED))
def test_it_does_so_from_noise_alone_too(name: str):
    logsnr = torch.tensor([-torch.inf, -36.0, 36.0, torch.inf], dtype=torch.float64)
    x0, noise = draws(4)
    found = to_x0(name, target(name, x0, noise, logsnr), add_noise(x0, noise, logsnr), logsnr)
    torch.testing.assert_close(found, x0, rtol=0, atol=1e-14)


def test_targets_are_those_of_the_papers():
    logsnr = torch.linspace(-9, 9, 7, dtype=torch.float64)
    x0, noise = draws(7)
    alpha, sigma = (per_example(value, x0) for value in alpha_sigma(logsnr))
    # Karras et al. 2022, table 1, in their noise level and their scale.
    level, sd = sigma / alpha, SIGMA_DATA
    c_skip = sd**2 / (level**2 + sd**2)
    c_out = level * sd / (level**2 + sd**2).sqrt()
    papers = {
        "epsilon": noise,
        "sample": x0,
        "v_prediction": alpha * noise - sigma * x0,
        "score": sigma * -(add_noise(x0, noise, logsnr) - alpha * x0) / sigma**2,
        "flow": noise - x0,
        "edm": (x0 - c_skip * (x0 + level * noise)) / c_out,
    }
    assert set(papers) == set(PARAMETERIZATIONS)
    for name, expected in papers.items():
        found = target(name, x0, noise, logsnr)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12, msg=name)


def test_edm_and_flow_are_shown_the_data_of_their_papers_and_others_x_t():
    logsnr = torch.linspace(-9, 9, 7, dtype=torch.float64)
    x0, noise = draws(7)
    x_t = add_noise(x0, noise, logsnr)
    alpha, sigma = (per_example(value, x0) for value in alpha_sigma(logsnr))
    c_in = 1 / ((sigma / alpha) ** 2 + SIGMA_DATA**2).sqrt()
    shown = {name: network_input(name, x_t, logsnr) for name in PARAMETERIZATIONS}
    torch.testing.assert_close(shown.pop("edm"), c_in * (x0 + sigma / alpha * noise))
    tau = sigma / (alpha + sigma)
    torch.testing.assert_close(shown.pop("flow"), (1 - tau) * x0 + tau * noise)
    assert all(value.equal(x_t) for value in shown.values())


@given(st.floats(-36, 36))
def test_input_and_target_of_edm_have_unit_variance_for_data_of_its_sd(logsnr: float):
    alpha, sigma = alpha_sigma(torch.tensor([logsnr], dtype=torch.float64))
    at = PARAMETERIZATIONS["edm"](alpha, sigma)
    assert (at.x0 * SIGMA_DATA) ** 2 + at.noise**2 == pytest.approx(1, abs=1e-12)
    assert at.scale**2 * ((alpha * SIGMA_DATA) ** 2 + sigma**2) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_an_error_of_the_prediction_is_worth_its_error_of_the_noise(name: str):
    logsnr = torch.linspace(-9, 9, 19, dtype=torch.float64)
    x0, noise = draws(19)
    x_t, prediction = add_noise(x0, noise, logsnr), target(name, x0, noise, logsnr)
    alpha, sigma = (per_example(value, x0) for value in alpha_sigma(logsnr))
    eps = (x_t - alpha * to_x0(name, prediction + 0.1, x_t, logsnr)) / sigma
    measured = (eps - noise).square().mean((1, 2, 3)) / 0.1**2
    torch.testing.assert_close(eps_error_per_error(name, logsnr), measured, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_predictions_may_be_in_bfloat16_and_clean_data_keep_their_dtype(name: str):
    x0, noise = (value.float() for value in draws(3))
    logsnr = torch.tensor([-2.0, 0.0, 2.0])
    prediction = target(name, x0, noise, logsnr).bfloat16()
    found = to_x0(name, prediction, add_noise(x0, noise, logsnr), logsnr)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, x0, rtol=0, atol=0.05)
