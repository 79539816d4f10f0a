"""Our numbers beside those of diffusers, which ``tests/oracles/make_diffusers.py`` wrote down."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gaussian_oracle import GaussianOracle
from tables import table
from torch import Tensor

from ray_diffusion.diffusion.grids import itinerary
from ray_diffusion.diffusion.sampling import visit
from ray_diffusion.diffusion.schedule import with_zero_terminal_snr
from ray_diffusion.diffusion.solvers import (
    DEFAULTS,
    Options,
    Step,
    ddim_step,
    ddpm_step,
    dpmpp_2m_step,
    nowhere,
)

ORACLES: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "oracles" / "diffusers.json").read_text()
)
ORACLE = GaussianOracle((ORACLES["data"]["mean"],), ORACLES["data"]["std"])
OURS: dict[str, Callable[[int], Tensor]] = {
    "linear": lambda T: table("linear", T, scale_betas=False),
    "scaled_linear": lambda T: table("scaled_linear", T, scale_betas=False),
    "squaredcos_cap_v2": lambda T: table("cosine", T),
    "sigmoid": lambda T: table("sigmoid_betas", T, scale_betas=False),
    "linear_zero_terminal_snr": lambda T: with_zero_terminal_snr(
        table("linear", T, scale_betas=False)
    ),
}
STEPS: dict[str, tuple[Step, Options, float]] = {
    "ddim": (ddim_step, DEFAULTS, 1e-12),
    "ddim_eta_1": (ddim_step, Options(eta=1.0), 1e-12),
    "ddpm": (ddpm_step, DEFAULTS, 1e-11),
    "dpmpp_2m": (dpmpp_2m_step, DEFAULTS, 1e-6),  # theirs casts to float32 in every step
}


def tensor(values: list[Any]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_nothing_that_was_written_down_is_left_out():
    assert set(ORACLES["alpha_bar"]) == set(OURS)
    assert set(ORACLES["trajectories"]) == set(STEPS)


@pytest.mark.parametrize("T", [50, 250, 1000])
@pytest.mark.parametrize("name", OURS)
def test_schedules_are_those_of_diffusers(name: str, T: int):
    theirs = ORACLES["alpha_bar"][name][str(T)]
    ours = torch.sigmoid(OURS[name](T))[theirs["timesteps"]]
    # diffusers multiplies up to 1000 factors in float32.
    torch.testing.assert_close(ours, tensor(theirs["alpha_bar"]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", STEPS)
def test_whole_trajectories_are_those_of_diffusers(name: str):
    step, options, atol = STEPS[name]
    run = ORACLES["trajectories"][name]
    count = len(run["timesteps"])
    levels = torch.logit(tensor(run["alpha_bar"]))
    theirs = tensor(run["x"]).view(count + 1, *ORACLES["shape"])
    noise = tensor(run.get("noise", run["x"][:-1])).view(count, *ORACLES["shape"])
    assert levels[-1] == torch.inf
    x, before = theirs[0], nowhere(theirs[0])
    for k in range(count):
        now = visit(ORACLE, x, levels[k : k + 1], torch.zeros(1).long())
        x, before = step(now, before, levels[k + 1 : k + 2], noise[k], options), now
        torch.testing.assert_close(x, theirs[k + 1], rtol=0, atol=atol)


@pytest.mark.parametrize("name", STEPS)
def test_the_levels_that_diffusers_visits_are_those_of_our_trailing_grid(name: str):
    run = ORACLES["trajectories"][name]
    init = run["scheduler"]["init"]
    T, count = init["num_train_timesteps"], len(run["timesteps"])
    levels = itinerary("trailing", table(init["beta_schedule"], T, scale_betas=False), count)
    alpha_bar = torch.sigmoid(levels)
    torch.testing.assert_close(alpha_bar, tensor(run["alpha_bar"]), rtol=0, atol=1e-6)
