import math

import pytest
import torch
from gaussian_oracle import GaussianOracle
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ray_diffusion.diffusion.family import FAMILIES
from ray_diffusion.diffusion.sampling import sample
from ray_diffusion.diffusion.solvers import Options, euler_maruyama_step

ORACLE = GaussianOracle()
CLEANEST = 8.0
# What is left of the data when the last step takes the mean of x0 given x_t.
KEPT = (ORACLE.sd**2 - float(ORACLE.x0_var(torch.tensor(CLEANEST)))) ** 0.5


def noise_of(family: str, signal: Tensor, logsnr: Tensor) -> Tensor:
    """The noise that goes with a signal, as each family defines it."""
    if family in ("sgm", "ve_sde"):
        return torch.exp(-logsnr / 2)
    return 1 - signal**2 if family == "sub_vp_sde" else (1 - signal**2).sqrt()


def uniform_levels(count: int) -> Tensor:
    levels = torch.linspace(-10, CLEANEST, count, dtype=torch.float64)
    return torch.cat([levels, torch.tensor([torch.inf])])


@given(level=st.floats(-36, 10))
@pytest.mark.parametrize("name", FAMILIES)
def test_signal_and_noise_of_a_family_are_in_the_ratio_that_logsnr_says(name: str, level: float):
    logsnr = torch.tensor([level], dtype=torch.float64)
    signal = FAMILIES[name].signal(logsnr)
    assert signal.dtype == torch.float64
    assert 0 < signal <= 1
    ratio = signal / noise_of(name, signal, logsnr)
    assert float(ratio.log()) == pytest.approx(level / 2, abs=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
def test_clean_data_is_all_signal_in_every_family(name: str):
    assert FAMILIES[name].signal(torch.tensor([math.inf])).tolist() == [1]


def test_the_sdes_train_at_all_levels_and_the_others_at_their_timesteps():
    continuous = {name for name, family in FAMILIES.items() if family.continuous}
    assert continuous == {"vp_sde", "ve_sde", "sub_vp_sde"}


@pytest.mark.parametrize("name", FAMILIES)
def test_euler_maruyama_finds_the_data_with_order_1_in_every_family(name: str):
    options = Options(signal=FAMILIES[name].signal)
    ends = [ORACLE.end_of(euler_maruyama_step, uniform_levels(n), options) for n in (400, 800)]
    assert [mean for mean, _ in ends] == pytest.approx([0.4, 0.4], abs=1.6e-4)
    assert [sd for _, sd in ends] == pytest.approx([0.2521, 0.2507], abs=1e-4)
    coarse, fine = (sd - KEPT for _, sd in ends)
    assert coarse / fine == pytest.approx(2, abs=0.05)


def test_families_step_differently_and_alike_in_the_limit():
    coarse, fine = (
        [
            ORACLE.end_of(euler_maruyama_step, uniform_levels(n), Options(signal=family.signal))[1]
            for family in FAMILIES.values()
        ]
        for n in (10, 1000)
    )
    assert max(coarse) - min(coarse) > 1e-3
    assert max(fine) - min(fine) < 1e-4


@pytest.mark.parametrize("name", ["vp_sde", "ve_sde", "sub_vp_sde"])
def test_samples_of_an_sde_have_the_moments_of_its_chain(name: str):
    levels, options = uniform_levels(60), Options(signal=FAMILIES[name].signal)
    mean, sd = ORACLE.end_of(euler_maruyama_step, levels, options)
    zero = torch.zeros(1).long()
    x = sample(ORACLE, zero, (1, 150, 150), levels, "euler_maruyama", 0, [0], options).double()
    n = x.numel()
    assert abs(x.mean() - mean) / (sd / n**0.5) < 4
    assert abs(x.std() - sd) / (sd / (2 * n) ** 0.5) < 4
