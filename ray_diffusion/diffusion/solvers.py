"""One reverse step from a noise level to a cleaner one: pure and element-wise in the batch.

Each example has its own pair of levels, so a batch may mix timesteps and step counts. A step to
``logsnr = +inf`` ends in clean data.

To add a solver, write its step and add it to ``SOLVERS``.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from ray_diffusion.diffusion.gaussian import alpha_sigma, per_example


def ddim_step(
    x_t: Tensor, x0: Tensor, logsnr_t: Tensor, logsnr_s: Tensor, noise: Tensor, eta: float = 0.0
) -> Tensor:
    """One step of DDIM (Song et al. 2020, arXiv:2010.02502, equations 12 and 16).

    Args:
        x_t: Noisy data at ``logsnr_t``, shape ``(B, ...)``.
        x0: The denoiser's estimate of clean data, same shape.
        logsnr_t: Noise level of each example now, shape ``(B,)``.
        logsnr_s: Noise level after the step, above ``logsnr_t``, shape ``(B,)``.
        noise: Standard normal noise, shape of ``x_t``; unused at ``eta = 0``.
        eta: 0 is deterministic, 1 is ``ddpm_step``.

    Returns:
        Data at ``logsnr_s``, shape and dtype of ``x_t``.
    """
    alpha_t, sigma_t = alpha_sigma(logsnr_t)
    alpha_s, sigma_s = alpha_sigma(logsnr_s)
    std = eta * sigma_s / sigma_t * (1 - (alpha_t / alpha_s) ** 2).clamp(min=0).sqrt()
    keep = (sigma_s**2 - std**2).clamp(min=0).sqrt() / sigma_t
    mean = per_example(keep, x_t) * x_t + per_example(alpha_s - keep * alpha_t, x_t) * x0
    return mean + per_example(std, x_t) * noise if eta else mean


def ddpm_step(x_t: Tensor, x0: Tensor, logsnr_t: Tensor, logsnr_s: Tensor, noise: Tensor) -> Tensor:
    """One ancestral step: a draw from the posterior ``q(x_s | x_t, x0)``.

    Its mean and variance ``beta_tilde`` are those of Ho et al. 2020 (arXiv:2006.11239, equations
    6 and 7), written so that ``s`` need not be ``t - 1``.

    Args:
        x_t: Noisy data at ``logsnr_t``, shape ``(B, ...)``.
        x0: The denoiser's estimate of clean data, same shape.
        logsnr_t: Noise level of each example now, shape ``(B,)``.
        logsnr_s: Noise level after the step, above ``logsnr_t``, shape ``(B,)``.
        noise: Standard normal noise, shape of ``x_t``.

    Returns:
        Data at ``logsnr_s``, shape and dtype of ``x_t``.
    """
    alpha_t, sigma_t = alpha_sigma(logsnr_t)
    alpha_s, sigma_s = alpha_sigma(logsnr_s)
    beta = 1 - (alpha_t / alpha_s) ** 2
    x0_weight = alpha_s * beta / sigma_t**2
    x_t_weight = (1 - beta).sqrt() * (sigma_s / sigma_t) ** 2
    std = beta.sqrt() * sigma_s / sigma_t
    mean = per_example(x0_weight, x_t) * x0 + per_example(x_t_weight, x_t) * x_t
    return mean + per_example(std, x_t) * noise


class Solver(NamedTuple):
    """A named way to take reverse steps.

    Attributes:
        step: ``(x_t, x0, logsnr_t, logsnr_s, noise) -> x_s``.
        stochastic: Whether the step uses its noise; if not, none is drawn.
    """

    step: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
    stochastic: bool


SOLVERS: dict[str, Solver] = {
    "ddim": Solver(ddim_step, stochastic=False),
    "ddpm": Solver(ddpm_step, stochastic=True),
}
