"""The exponential moving average of the weights, which is what samples are drawn from."""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


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


class PowerAverage(NamedTuple):
    """An average of all weights so far, those after update ``t`` weighted by ``t^gamma``.

    Attributes:
        gamma: The power; see ``power_of``.
        steps: Updates made until then, at least 1.
    """

    gamma: float
    steps: float


def power_of(width: float) -> float:
    """The power of an average that is as wide as wanted (Karras et al. 2024, arXiv:2312.02696).

    Args:
        width: The standard deviation of ``t`` under the weights ``t^gamma``, as a share of the
            run (``sigma_rel`` in the paper), in (0, 0.28].

    Returns:
        gamma, of which ``width^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3))`` is true.
    """
    inverse = width**-2
    companion = torch.tensor(
        [[-7, inverse - 16, inverse - 12], [1, 0, 0], [0, 1, 0]], dtype=torch.float64
    )
    return float(torch.linalg.eigvals(companion).real.max())


def power_decay_at(step: int, gamma: float) -> float:
    """The decay of one update, ``(1 - 1 / t)^(gamma + 1)``, that makes a ``PowerAverage``.

    Args:
        step: Updates made before this one, so ``t = step + 1``.
        gamma: The power, above -1.

    Returns:
        The decay, in [0, 1); 0 at first, so nothing is left of the initial weights.
    """
    return float((step / (step + 1)) ** (gamma + 1))


def reconstruct(kept: Sequence[PowerAverage], wanted: PowerAverage) -> Tensor:
    """How much of each kept average to add up for one that was never tracked, after training.

    The least-squares fit of the wanted weights by the kept ones (Karras et al. 2024,
    arXiv:2312.02696); two powers, kept now and then over the run, reach widths between
    and beyond them.

    Args:
        kept: The averages at hand, of different powers or steps.
        wanted: Any power, at no more steps than the newest of them.

    Returns:
        Shares of the averages, shape ``(len(kept),)``, float64; they sum to about 1.
    """
    gammas, steps = torch.tensor([*kept, wanted], dtype=torch.float64).T
    a, b, earlier = gammas[:, None], gammas[None], torch.minimum(steps[:, None], steps[None])
    # int of the product of both weights, (gamma + 1) t^gamma / steps^(gamma + 1), up to `earlier`.
    overlap = (a + 1) * (b + 1) / ((a + b + 1) * earlier)
    overlap *= (earlier / steps[:, None]) ** (a + 1) * (earlier / steps[None]) ** (b + 1)
    shares: Tensor = torch.linalg.lstsq(
        overlap[:-1, :-1], overlap[:-1, -1:], driver="gelsd"
    ).solution[:, 0]
    return shares
