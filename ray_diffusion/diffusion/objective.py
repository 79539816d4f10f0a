"""The training loss, one number per example so that ranks with unequal slices can weigh it."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_diffusion.diffusion.gaussian import add_noise
from ray_diffusion.diffusion.levels import Levels
from ray_diffusion.diffusion.parameterization import network_input, target, to_x0
from ray_diffusion.diffusion.variance import step_kl
from ray_diffusion.diffusion.weighting import weight

Network = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(x_t, logsnr, condition) -> prediction``; the prediction has the shape of ``x_t``, or twice its
channels where the variance of the reverse steps is learned too."""

HYBRID = 0.001  # weight of the bound beside the simple loss, as Nichol and Dhariwal 2021 have it


def _mse(prediction: Tensor, wanted: Tensor) -> Tensor:
    return (prediction - wanted).square()


def _l1(prediction: Tensor, wanted: Tensor) -> Tensor:
    return (prediction - wanted).abs()


def _huber(prediction: Tensor, wanted: Tensor) -> Tensor:
    return F.huber_loss(prediction, wanted, reduction="none", delta=1.0)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": _mse, "l1": _l1, "huber": _huber}


class Objective(NamedTuple):
    """What is minimised.

    Attributes:
        prediction_type: A key of ``PARAMETERIZATIONS``.
        loss: A key of ``LOSSES``.
        weighting: A key of ``WEIGHTINGS``.
        snr_gamma: Where ``min_snr`` and ``soft_min_snr`` cap the signal-to-noise ratio.
        steps: T, if the network also learns the variance of the steps between timesteps.
    """

    prediction_type: str
    loss: str = "mse"
    weighting: str = "uniform"
    snr_gamma: float = 5.0
    steps: int | None = None


def denoising_loss(
    network: Network,
    x0: Tensor,
    condition: Tensor,
    levels: Levels,
    noise: Tensor,
    objective: Objective,
) -> Tensor:
    """How wrong the prediction is: the simple loss of Ho et al. 2020 (arXiv:2006.11239), weighed.

    With ``objective.steps`` the bound's term of the step, times ``0.001 T``, is added, from which
    the variance alone learns (Nichol and Dhariwal 2021, arXiv:2102.09672, section 3.1).

    Args:
        network: What is trained.
        x0: Clean data, shape ``(B, ...)``.
        condition: Class of each example, shape ``(B,)``, int64.
        levels: Noise levels, entries of shape ``(B,)``.
        noise: Standard normal noise, shape of ``x0``.
        objective: What is minimised.

    Returns:
        The loss of each example, shape ``(B,)``, float32.
    """
    predicts, logsnr = objective.prediction_type, levels.logsnr
    x_t = add_noise(x0, noise, logsnr)
    output = network(network_input(predicts, x_t, logsnr), logsnr, condition).float()
    prediction, *raw = output.chunk(2 if objective.steps else 1, dim=1)
    errors = LOSSES[objective.loss](prediction, target(predicts, x0, noise, logsnr))
    weights = weight(objective.weighting, predicts, logsnr, levels.density, objective.snr_gamma)
    losses = weights * errors.flatten(1).mean(1)
    if objective.steps is None:
        return losses
    x0_hat = to_x0(predicts, prediction.detach(), x_t, logsnr)
    first = torch.isinf(levels.cleaner)  # its step ends in clean data, without a variance to learn
    cleaner = torch.where(first, logsnr + 1, levels.cleaner)
    bound = step_kl(x0, x0_hat, raw[0], logsnr, cleaner)
    return losses + HYBRID * objective.steps * torch.where(first, 0.0, bound)


def drop_condition(condition: Tensor, null: int, probability: float, uniform: Tensor) -> Tensor:
    """Replace some conditions by the null class, each example on its own.

    This is what lets one network learn the conditional and the unconditional distribution, for
    classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598, algorithm 1).

    Args:
        condition: Class of each example, shape ``(B,)``.
        null: The class that means "no class".
        probability: Share of examples to drop, in [0, 1).
        uniform: Draws in [0, 1) that decide, shape ``(B,)``.

    Returns:
        The conditions, shape ``(B,)``.
    """
    return torch.where(uniform < probability, null, condition)
