"""What training changes: weights, their average, the optimizer, and how far it is."""

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ray_diffusion.config import Config
from ray_diffusion.models import ema
from ray_diffusion.models.blocks import compile_network
from ray_diffusion.models.build import build
from ray_diffusion.storage import Directory
from ray_diffusion.training import warm_start
from ray_diffusion.training.collective import Gradients, GradientSum, rank_and_world


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
    gradients: Gradients
    images_seen: int = 0
    steps: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    profile: list[float] = field(default_factory=list)


def initial_state(
    config: Config, device: torch.device, init: Directory | None = None
) -> TrainState:
    """The state before the first step; the same on every worker.

    Args:
        config: The resolved configuration of the run.
        device: Where to train.
        init: The run's directory, if it holds the first weights; else they are random.

    Returns:
        The state.
    """
    network = build(config, seed=config.run.seed).to(device)
    if init is not None:
        warm_start.start(network, init)
    average = ema.average_of(network)  # before the network is sharded, or gets hooks
    gradients = (_spread if _is_spread(config) else _replicated)(network, average)
    optim = config.optim
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=optim.lr,
        betas=optim.betas,
        weight_decay=optim.weight_decay,
        fused=True,
    )
    if config.training.compile:
        compile_network(network, device)
    return TrainState(network, average, optimizer, gradients)


def unmoved(parameter: nn.Parameter) -> dict[str, Tensor]:
    """AdamW's state of a parameter before its first step."""
    return {
        "step": torch.zeros((), device=parameter.device),
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.zeros_like(parameter),
    }


def _is_spread(config: Config) -> bool:
    return config.cluster.strategy == "fsdp" and rank_and_world()[1] > 1


def _replicated(network: nn.Module, average: nn.Module) -> Gradients:
    return GradientSum(network.parameters())


def _spread(network: nn.Module, average: nn.Module) -> Gradients:
    from ray_diffusion.training import sharded  # a second to import

    sharded.shard(network)
    sharded.shard(average)
    return sharded.ScatteredSum(network)


def callable_alone(network: nn.Module, config: Config) -> nn.Module:
    """A network of a state as a worker may call it on its own, in batches of any size.

    Args:
        network: The state's network, or its average; all workers ask for it together.
        config: The run's configuration.

    Returns:
        The network, or a copy of it, in evaluation mode: unsharded, and not compiled anew for
        each size.
    """
    if _is_spread(config):
        from ray_diffusion.training import sharded

        copied = build(config).to(next(network.parameters()).device).requires_grad_(False)
        sharded.whole(network, copied)
        return copied.eval()
    return copy.deepcopy(network).eval() if config.training.compile else network
