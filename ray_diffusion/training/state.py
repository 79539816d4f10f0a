"""What training changes: weights, their average, the optimizer, and how far it is."""

from dataclasses import dataclass, field

import torch
from torch import nn

from ray_diffusion.config import Config
from ray_diffusion.models import ema
from ray_diffusion.models.build import build
from ray_diffusion.training.collective import GradientSum


@dataclass
class TrainState:
    """All that training changes; a checkpoint holds it.

    Attributes:
        network: The weights that are trained.
        average: Their exponential moving average.
        optimizer: AdamW and its moments.
        gradients: How gradients come to be, and to be summed over the workers.
        images_seen: Images trained on, over all workers.
        steps: Optimizer steps.
        metrics: The last value of each metric.
        best: The metrics of the best validation so far, and its ``images_seen``.
        profile: The newest validation's error at ``PROFILE_LEVELS``; empty before the first.
    """

    network: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    gradients: GradientSum
    images_seen: int = 0
    steps: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    profile: list[float] = field(default_factory=list)


def initial_state(config: Config, device: torch.device) -> TrainState:
    """The state before the first step; the same on every worker.

    Args:
        config: The resolved configuration of the run.
        device: Where to train.

    Returns:
        The state.
    """
    network = build(config, seed=config.run.seed).to(device)
    optim = config.optim
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=optim.lr,
        betas=optim.betas,
        weight_decay=optim.weight_decay,
        fused=True,
    )
    average = ema.average_of(network)  # before the network gets its hooks
    return TrainState(network, average, optimizer, GradientSum(network.parameters()))
