"""The tables of all schedules, with the options that a run has unless it says otherwise."""

import torch
from torch import Tensor

from ray_diffusion.config.schema import Diffusion
from ray_diffusion.diffusion.schedule import SCHEDULES


def table(name: str, T: int = 1000, **options: object) -> Tensor:
    """The logsnr of each timestep; ``custom`` is 1e-4 to 0.6 in 24 steps, stretched to T."""
    defaults = dict(Diffusion())
    defaults["betas"] = (torch.linspace(1e-4, 0.6, T) * 24 / T).clamp(max=0.999).tolist()
    return SCHEDULES[name](T, **defaults | options)
