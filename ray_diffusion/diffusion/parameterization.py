"""What the network predicts, and the way back from a prediction to clean data.

Every prediction type in use is linear in the clean data and the noise, so each is four numbers
per noise level. Names are diffusers' ``prediction_type`` values where it has one. To add one,
write its ``Coefficients`` and add it to ``PARAMETERIZATIONS``.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ray_diffusion.diffusion.gaussian import alpha_sigma, per_example

SIGMA_DATA = 0.5  # standard deviation of the data that Karras et al. 2022 assume


class Coefficients(NamedTuple):
    """One prediction type at some noise levels; each entry has shape ``(B,)``, float64.

    Attributes:
        x0: Weight of the clean data in the target ``x0 * x_0 + noise * noise``.
        noise: Weight of the noise in it.
        skip: Weight of the noisy data in the clean data ``skip * x_t + out * prediction``.
        out: Weight of the prediction in it.
        scale: What the noisy data is multiplied by before the network sees it.
    """

    x0: Tensor
    noise: Tensor
    skip: Tensor
    out: Tensor
    scale: Tensor


def epsilon(alpha: Tensor, sigma: Tensor) -> Coefficients:
    """The noise itself (Ho et al. 2020, arXiv:2006.11239)."""
    one, zero = torch.ones_like(alpha), torch.zeros_like(alpha)
    return Coefficients(zero, one, 1 / alpha, -sigma / alpha, one)


def v_prediction(alpha: Tensor, sigma: Tensor) -> Coefficients:
    """``v = alpha * noise - sigma * x0`` (Salimans and Ho 2022, arXiv:2202.00512).

    As well conditioned at pure noise, where epsilon says nothing about x0, as at the clean end.
    """
    return Coefficients(-sigma, alpha, alpha, -sigma, torch.ones_like(alpha))


def sample(alpha: Tensor, sigma: Tensor) -> Coefficients:
    """The clean data."""
    one, zero = torch.ones_like(alpha), torch.zeros_like(alpha)
    return Coefficients(one, zero, zero, one, one)


def score(alpha: Tensor, sigma: Tensor) -> Coefficients:
    """The score of x_t times sigma, ``-noise``.

    The factor sigma makes the target as large at every level, and the squared error that of
    denoising score matching weighed by ``sigma^2`` (Song and Ermon 2019, arXiv:1907.05600).
    """
    one, zero = torch.ones_like(alpha), torch.zeros_like(alpha)
    return Coefficients(zero, -one, 1 / alpha, sigma / alpha, one)


def flow(alpha: Tensor, sigma: Tensor) -> Coefficients:
    """The velocity ``noise - x0`` of the straight path between them (arXiv:2209.03003).

    Rectified flow writes ``z = (1 - tau) x0 + tau noise``; that is ``x_t / (alpha + sigma)`` with
    ``tau = sigma / (alpha + sigma)``, and the network is shown ``z``.
    """
    one, total = torch.ones_like(alpha), alpha + sigma
    return Coefficients(-one, one, 1 / total, -sigma / total, 1 / total)


def edm(alpha: Tensor, sigma: Tensor) -> Coefficients:
    """The network inside EDM's preconditioning (Karras et al. 2022, arXiv:2206.00364, table 1).

    Input and target have unit variance at every level, for data of standard deviation 0.5. There
    the noise level is ``sigma / alpha`` and the noisy data ``x_t / alpha``.
    """
    deviation = (sigma**2 + (alpha * SIGMA_DATA) ** 2).sqrt()  # of x_t
    return Coefficients(
        x0=sigma / (SIGMA_DATA * deviation),
        noise=-alpha * SIGMA_DATA / deviation,
        skip=alpha * SIGMA_DATA**2 / deviation**2,
        out=sigma * SIGMA_DATA / deviation,
        scale=1 / deviation,
    )


PARAMETERIZATIONS: dict[str, Callable[[Tensor, Tensor], Coefficients]] = {
    "epsilon": epsilon,
    "v_prediction": v_prediction,
    "sample": sample,
    "score": score,
    "flow": flow,
    "edm": edm,
}


def target(prediction_type: str, x0: Tensor, noise: Tensor, logsnr: Tensor) -> Tensor:
    """What a network that knew everything would predict.

    Args:
        prediction_type: A key of ``PARAMETERIZATIONS``.
        x0: Clean data, shape ``(B, ...)``.
        noise: The noise that was added to it, same shape.
        logsnr: Noise level of each example, shape ``(B,)``.

    Returns:
        The prediction, shape and dtype of ``x0``.
    """
    at = PARAMETERIZATIONS[prediction_type](*alpha_sigma(logsnr))
    return per_example(at.noise, x0) * noise + per_example(at.x0, x0) * x0


def to_x0(prediction_type: str, prediction: Tensor, x_t: Tensor, logsnr: Tensor) -> Tensor:
    """The clean data that a prediction implies.

    Args:
        prediction_type: A key of ``PARAMETERIZATIONS``.
        prediction: What the network said, shape ``(B, ...)``.
        x_t: Noisy data, same shape.
        logsnr: Noise level of each example, shape ``(B,)``.

    Returns:
        Clean data, shape and dtype of ``x_t``.
    """
    at = PARAMETERIZATIONS[prediction_type](*alpha_sigma(logsnr))
    return per_example(at.skip, x_t) * x_t + per_example(at.out, x_t) * prediction.to(x_t.dtype)


def network_input(prediction_type: str, x_t: Tensor, logsnr: Tensor) -> Tensor:
    """Noisy data as the network is shown it, shape and dtype of ``x_t``."""
    scale = PARAMETERIZATIONS[prediction_type](*alpha_sigma(logsnr)).scale
    return per_example(scale, x_t) * x_t


def eps_error_per_error(prediction_type: str, logsnr: Tensor) -> Tensor:
    """Squared error of the implied noise, per squared error of the prediction.

    ``eps = (x_t - alpha x0) / sigma`` makes it ``(alpha / sigma * out)^2``.

    Args:
        prediction_type: A key of ``PARAMETERIZATIONS``.
        logsnr: Noise level of each example, shape ``(B,)``.

    Returns:
        The factor, shape ``(B,)``, float64; 1 for epsilon.
    """
    alpha, sigma = alpha_sigma(logsnr)
    return (alpha / sigma * PARAMETERIZATIONS[prediction_type](alpha, sigma).out) ** 2
