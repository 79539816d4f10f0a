"""Which task a configuration describes."""

from collections.abc import Callable

import torch

from ray_diffusion.config import Config
from ray_diffusion.data.reader import Dataset
from ray_diffusion.training.denoising import Denoising
from ray_diffusion.training.latents import space_of
from ray_diffusion.training.reconstruction import Reconstruction
from ray_diffusion.training.task import Task


def _denoising(config: Config, device: torch.device, val: Dataset) -> Task:
    return Denoising(config, device, val, space_of(val))


# By model.kind; every other kind is a diffusion model's.
TASKS: dict[str, Callable[[Config, torch.device, Dataset], Task]] = {"autoencoder": Reconstruction}


def task_of(config: Config, device: torch.device, val: Dataset) -> Task:
    """What a run learns.

    Args:
        config: Its resolved configuration.
        device: Where it trains.
        val: The validation split.

    Returns:
        The task.
    """
    return TASKS.get(config.model.kind, _denoising)(config, device, val)
