"""The variance-preserving forward process, from clean data to any noise level in one jump."""

import torch
from torch import Tensor


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """View one value per example so that it multiplies a batch.

    Args:
        values: Shape ``(B,)``.
        like: The batch, shape ``(B, ...)``.

    Returns:
        ``values`` in the dtype of ``like``, shape ``(B, 1, 1, ...)``.
    """
    return values.to(like.dtype).view(-1, *[1] * (like.ndim - 1))


def alpha_sigma(logsnr: Tensor) -> tuple[Tensor, Tensor]:
    """How much signal and how much noise there is at a noise level.

    ``alpha^2 = alpha_bar = sigmoid(logsnr)``, ``sigma^2 = 1 - alpha_bar = sigmoid(-logsnr)``.

    Args:
        logsnr: Any real number or infinity; shape ``(B,)``.

    Returns:
        ``alpha`` and ``sigma`` in [0, 1] with ``alpha^2 + sigma^2 = 1``, float64, shape ``(B,)``.
    """
    level = logsnr.double()
    return torch.sigmoid(level).sqrt(), torch.sigmoid(-level).sqrt()


def add_noise(x0: Tensor, noise: Tensor, logsnr: Tensor) -> Tensor:
    """Jump from clean data straight to a noise level.

    ``x_t = sqrt(alpha_bar_t) * x_0 + sqrt(1 - alpha_bar_t) * noise``
    (Ho et al. 2020, arXiv:2006.11239, equation 4).

    Args:
        x0: Clean data in [-1, 1], or latents of about unit variance, shape ``(B, ...)``.
        noise: Standard normal noise, same shape.
        logsnr: Noise level of each example, shape ``(B,)``.

    Returns:
        ``x_t``, same shape and dtype as ``x0``.
    """
    alpha, sigma = alpha_sigma(logsnr)
    return per_example(alpha, x0) * x0 + per_example(sigma, x0) * noise
