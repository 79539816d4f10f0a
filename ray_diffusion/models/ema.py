"""The exponential moving average of the weights, which is what samples are drawn from."""

import copy

import torch
from torch import nn


def average_of(network: nn.Module) -> nn.Module:
    """A copy of a network that no optimizer will touch.

    Args:
        network: The network to copy.

    Returns:
        The copy, in evaluation mode, without gradients.
    """
    return copy.deepcopy(network).requires_grad_(False).eval()


def decay_at(step: int, decay: float, warmup_steps: int) -> float:
    """The decay of one update: ``min(decay, (1 + step) / (warmup_steps + step))``.

    The warm-up lets the average forget the random initial weights quickly.

    Args:
        step: Updates made before this one.
        decay: The final decay, in [0, 1).
        warmup_steps: How slowly the decay rises, at least 1; it is final after
            ``(warmup_steps * decay - 1) / (1 - decay)`` updates.

    Returns:
        The decay, in [0, 1).
    """
    return min(decay, (1 + step) / (warmup_steps + step))


@torch.no_grad()
def update(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average towards the network: ``average = decay * average + (1 - decay) * network``.

    Args:
        average: What ``average_of`` returned; changed in place.
        network: The network it follows.
        decay: How much of the average is kept, in [0, 1).
    """
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
    for kept, fresh in zip(average.buffers(), network.buffers(), strict=True):
        kept.copy_(fresh)
