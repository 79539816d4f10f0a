"""The training loss, one number per example so that ranks with unequal slices can weigh it."""

from collections.abc import Callable

import torch
from torch import Tensor

from ray_diffusion.diffusion.gaussian import add_noise
from ray_diffusion.diffusion.parameterization import PARAMETERIZATIONS

Network = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(x_t, logsnr, condition) -> prediction``; the prediction has the shape of ``x_t``."""


def denoising_loss(
    network: Network,
    x0: Tensor,
    condition: Tensor,
    logsnr: Tensor,
    noise: Tensor,
    prediction_type: str,
) -> Tensor:
    """Mean squared error of the prediction, the simple loss of Ho et al. 2020 (arXiv:2006.11239).

    Args:
        network: What is trained.
        x0: Clean data, shape ``(B, ...)``.
        condition: Class of each example, shape ``(B,)``, int64.
        logsnr: Noise level of each example, shape ``(B,)``.
        noise: Standard normal noise, shape of ``x0``.
        prediction_type: A key of ``PARAMETERIZATIONS``.

    Returns:
        The loss of each example, shape ``(B,)``, float32.
    """
    prediction = network(add_noise(x0, noise, logsnr), logsnr, condition)
    target = PARAMETERIZATIONS[prediction_type].target(x0, noise, logsnr)
    return (prediction.float() - target).square().flatten(1).mean(1)


def drop_condition(
    condition: Tensor, null: int, probability: float, generator: torch.Generator
) -> Tensor:
    """Replace some conditions by the null class, each example on its own.

    This is what lets one network learn the conditional and the unconditional distribution, for
    classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598, algorithm 1).

    Args:
        condition: Class of each example, shape ``(B,)``.
        null: The class that means "no class".
        probability: Share of examples to drop, in [0, 1).
        generator: Where the draws come from.

    Returns:
        The conditions, shape ``(B,)``.
    """
    draws = torch.rand(condition.shape, generator=generator, device=condition.device)
    return torch.where(draws < probability, null, condition)
