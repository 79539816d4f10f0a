"""Schedules and sampling trajectories of diffusers, which other tests compare ours with.

The tests read ``diffusers.json`` and never import diffusers. To write the file anew::

    pip install torch==2.13.0 diffusers==0.42.1 && python tests/oracles/make_diffusers.py

It was last written with Python 3.11.7 and the two versions above.

``alpha_bar[schedule][T]`` holds ``alphas_cumprod`` at ``timesteps``: all of them, or every 20th
and the last for T = 1000. diffusers computes it in float32; the values are stored as they are.

``trajectories[name]`` holds one run of a scheduler, n steps long, on data N(``data.mean``,
``data.std^2``) of shape ``shape``, with the perfect denoiser for it:

scheduler   the class, the arguments of its constructor and those of its ``step``
timesteps   n of them, noisiest first
alpha_bar   n + 1 noise levels; the last is 1, clean data
x           n + 1 samples, flattened; the first is the start, x[i] is at alpha_bar[i]
noise       n draws, flattened, if the solver is stochastic; noise[i] leads from x[i] to x[i + 1],
            and the last one has no effect, for the step to clean data adds none
sigmas      n + 1 ratios of noise to signal, if the scheduler works from these

The schedulers' float32 tables are widened to float64 before the run, with no value changed. So
DDIM and DDPM run in float64, and the stored levels are the levels used. DPMSolverMultistep still
casts the sample to float32 in each step, which costs 1e-7. Its first step and its last, to clean
data, are of first order, whatever ``lower_order_final`` says; all others are of second order.
"""

import json
import re
import textwrap
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SCHEDULES: dict[str, dict[str, Any]] = {
    "linear": {"beta_schedule": "linear"},
    "scaled_linear": {"beta_schedule": "scaled_linear"},
    "squaredcos_cap_v2": {"beta_schedule": "squaredcos_cap_v2"},
    "sigmoid": {"beta_schedule": "sigmoid"},
    "linear_zero_terminal_snr": {"beta_schedule": "linear", "rescale_betas_zero_snr": True},
}
DDIM = {
    "beta_schedule": "linear",
    "num_train_timesteps": 1000,
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "set_alpha_to_one": True,
}
DDPM = {
    "beta_schedule": "linear",
    "num_train_timesteps": 50,
    "variance_type": "fixed_small",
    "clip_sample": False,
}
DPM = {
    "beta_schedule": "linear",
    "num_train_timesteps": 1000,
    "timestep_spacing": "trailing",
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "solver_type": "midpoint",
    "lower_order_final": False,
    "final_sigmas_type": "zero",
}
# Name: the scheduler's class, arguments of its constructor and of its step, number of steps.
TRAJECTORIES: dict[str, tuple[str, dict[str, Any], dict[str, Any], int]] = {
    "ddim": ("DDIMScheduler", DDIM, {"eta": 0.0}, 10),
    "ddim_eta_1": ("DDIMScheduler", DDIM, {"eta": 1.0}, 10),
    "ddpm": ("DDPMScheduler", DDPM, {}, 50),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", DPM, {}, 10),
}
STOCHASTIC = {"ddim_eta_1", "ddpm"}
MEAN, STD = 0.4, 0.25
SHAPE = (1, 1, 2, 2)
START = (0.3, -1.2, 0.8, 1.9)


def alpha_bars(T: int, settings: dict[str, Any]) -> dict[str, list[Any]]:
    """A scheduler's table at the timesteps that are kept."""
    from diffusers import DDPMScheduler  # here, for pytest imports this file and has no diffusers

    timesteps = list(range(T)) if T < 1000 else [*range(0, T, 20), T - 1]
    table = DDPMScheduler(num_train_timesteps=T, **settings).alphas_cumprod
    return {"timesteps": timesteps, "alpha_bar": table[timesteps].tolist()}


def perfect_eps(x: Tensor, alpha_bar: float) -> Tensor:
    """The expectation of the noise given x."""
    alpha, sigma = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    gain = alpha * STD**2 / (alpha_bar * STD**2 + 1 - alpha_bar)
    x0 = MEAN + gain * (x - alpha * MEAN)
    return (x - alpha * x0) / sigma


def trajectory(name: str) -> dict[str, Any]:
    """One run of a scheduler."""
    import diffusers

    kind, settings, options, steps = TRAJECTORIES[name]
    scheduler = getattr(diffusers, kind)(**settings)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.set_timesteps(steps)
    run = {
        "scheduler": {"class": kind, "init": settings, "step": options},
        "timesteps": scheduler.timesteps.tolist(),
    }
    if hasattr(scheduler, "sigmas"):
        scheduler.sigmas = scheduler.sigmas.double()
        run["sigmas"] = scheduler.sigmas.tolist()
        run["alpha_bar"] = (1 / (1 + scheduler.sigmas**2)).tolist()
    else:
        run["alpha_bar"] = [*scheduler.alphas_cumprod[scheduler.timesteps].tolist(), 1.0]

    states, draws = [torch.tensor(START, dtype=torch.float64).view(SHAPE)], []
    for i, t in enumerate(scheduler.timesteps):
        # A scheduler that draws gets the same from a generator of the same seed.
        draws.append(torch.randn(SHAPE, generator=seeded(i), dtype=torch.float64))
        eps = perfect_eps(states[-1], run["alpha_bar"][i])
        step = scheduler.step(eps, t, states[-1], generator=seeded(i), **options)
        states.append(step.prev_sample)
    run["x"] = [state.flatten().tolist() for state in states]
    if name in STOCHASTIC:
        run["noise"] = [draw.flatten().tolist() for draw in draws]
    return run


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def written(values: object) -> str:
    """JSON with each list of plain values on as few lines as it needs."""

    def wrapped(match: re.Match[str]) -> str:
        return textwrap.fill(" ".join(match[0].split()), 100, break_on_hyphens=False)

    return re.sub(r"\[[^][{}]*\]", wrapped, json.dumps(values, indent=1)) + "\n"


def main() -> None:
    """Write ``diffusers.json`` beside this file."""
    tables = {
        name: {T: alpha_bars(T, settings) for T in (50, 250, 1000)}
        for name, settings in SCHEDULES.items()
    }
    oracles = {
        "versions": {package: version(package) for package in ("diffusers", "torch")},
        "alpha_bar": tables,
        "data": {"mean": MEAN, "std": STD},
        "shape": SHAPE,
        "trajectories": {name: trajectory(name) for name in TRAJECTORIES},
    }
    Path(__file__).with_name("diffusers.json").write_text(written(oracles))


if __name__ == "__main__":
    main()
