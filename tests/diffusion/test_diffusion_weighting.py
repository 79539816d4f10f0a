import math

import pytest
import torch
from gaussian_oracle import GaussianOracle
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import table
from torch import Tensor

from ray_diffusion.diffusion.gaussian import alpha_sigma
from ray_diffusion.diffusion.levels import levels_at
from ray_diffusion.diffusion.parameterization import PARAMETERIZATIONS, SIGMA_DATA
from ray_diffusion.diffusion.schedule import SCHEDULES
from ray_diffusion.diffusion.weighting import WEIGHTINGS, weight

LEVELS = torch.linspace(-12, 12, 97, dtype=torch.float64)
SNR = LEVELS.exp()
ORACLE = GaussianOracle()


def weights(weighting: str, prediction_type: str, gamma: float = 5.0) -> Tensor:
    return weight(weighting, prediction_type, LEVELS, torch.ones_like(LEVELS), gamma)


def in_x0_units(weighting: str, prediction_type: str, gamma: float = 5.0) -> Tensor:
    """Weight of the squared error of the clean data that a prediction implies."""
    out = PARAMETERIZATIONS[prediction_type](*alpha_sigma(LEVELS)).out
    return weights(weighting, prediction_type, gamma).double() / out**2


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)  # float32


@settings(max_examples=20)
@given(level=st.floats(-20, 20), density=st.floats(1e-3, 10), gamma=st.floats(0.1, 100))
@pytest.mark.parametrize("prediction_type", PARAMETERIZATIONS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_every_weight_is_positive_and_finite(
    weighting: str, prediction_type: str, level: float, density: float, gamma: float
):
    one = torch.ones(3, dtype=torch.float64)
    found = weight(weighting, prediction_type, level * one, density * one, gamma)
    assert found.shape == (3,)
    assert found.dtype == torch.float32
    assert ((found > 0) & found.isfinite()).all()


@pytest.mark.parametrize("prediction_type", PARAMETERIZATIONS)
def test_uniform_leaves_the_error_of_any_prediction_as_it_is(prediction_type: str):
    assert weights("uniform", prediction_type).eq(1).all()


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_has_the_closed_forms_of_its_paper(gamma: float):
    # Hang et al. 2023: min(snr, gamma) for x0, over snr for the noise, over snr + 1 for v.
    capped = SNR.clamp(max=gamma)
    close(weights("min_snr", "sample", gamma), capped)
    close(weights("min_snr", "epsilon", gamma), capped / SNR)
    close(weights("min_snr", "v_prediction", gamma), capped / (SNR + 1))


@pytest.mark.parametrize("prediction_type", PARAMETERIZATIONS)
@pytest.mark.parametrize("weighting", sorted(set(WEIGHTINGS) - {"uniform"}))
def test_a_weighting_means_the_same_for_every_prediction(weighting: str, prediction_type: str):
    close(in_x0_units(weighting, prediction_type), in_x0_units(weighting, "sample"))


def test_the_soft_cap_of_min_snr_is_its_harmonic_form():
    close(in_x0_units("soft_min_snr", "v_prediction"), 1 / (1 / SNR + 1 / 5))


def test_p2_falls_with_the_signal():
    close(weights("p2", "epsilon"), 1 / (1 + SNR))


def test_the_weight_of_edm_is_1_for_the_prediction_of_edm():
    close(weights("edm", "edm"), torch.ones(97).double())
    # Karras et al. 2022: (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 for x0.
    sigma = torch.exp(-LEVELS / 2)
    close(weights("edm", "sample"), (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_vlb_weighs_all_logsnr_alike_whatever_the_schedule(schedule: str):
    levels = table(schedule)
    middles = torch.arange(999 * 4).double() / 4 + 1 / 8
    at = levels_at("uniform", levels, middles)
    # What continuous training minimises: the mean over positions of weight * error.
    trained = (
        weight("vlb", "epsilon", at.logsnr, at.density, 5.0) * ORACLE.eps_mse(at.logsnr)
    ).mean()
    ends = torch.stack([levels[-1], levels[0]]) + 2 * math.log(ORACLE.sd)
    integral = torch.nn.functional.softplus(ends).diff()  # of the error, in closed form
    assert float(trained / integral) == pytest.approx(1, abs=2e-3)  # 1 / T of it is the ends


@pytest.mark.parametrize("schedule", ["linear", "cosine", "edm"])
def test_sigmoid_is_a_weight_of_logsnr_whatever_the_schedule(schedule: str):
    at = levels_at("uniform", table(schedule), torch.arange(1000))
    per_unit = weight("sigmoid", "epsilon", at.logsnr, at.density, 5.0) * at.density
    close(per_unit, torch.sigmoid(2 - at.logsnr))
