"""The variance of a reverse step: fixed, known from a profile, or learned.

A step from ``t`` to a cleaner ``s`` draws from ``q(x_s | x_t, x0)``, whose variance is
``beta_tilde``, around a mean that is linear in ``x0``. Not knowing ``x0`` adds its uncertainty:
``beta_tilde + c0^2 Var[x0 | x_t]`` is the variance of ``q(x_s | x_t)`` (Bao et al. 2022,
arXiv:2201.06503). So whatever knows ``Var[x0 | x_t]`` gives the right step at any step size.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ray_diffusion.diffusion.gaussian import alpha_sigma, per_example


class Posterior(NamedTuple):
    """``q(x_s | x_t, x0) = N(x0_weight x0 + x_t_weight x_t, beta_tilde)``; entries ``(B,)``.

    Attributes:
        x0_weight: Weight of the clean data in the mean.
        x_t_weight: Weight of the noisy data in the mean.
        beta_tilde: Its variance.
        beta: Variance that the forward process adds from ``s`` to ``t``; an upper bound.
    """

    x0_weight: Tensor
    x_t_weight: Tensor
    beta_tilde: Tensor
    beta: Tensor


def posterior(logsnr_t: Tensor, logsnr_s: Tensor) -> Posterior:
    """The distribution of less noisy data, given noisy and clean data.

    Ho et al. 2020 (arXiv:2006.11239), equations 6 and 7, written so that ``s`` need not be
    ``t - 1``.

    Args:
        logsnr_t: Noise level of each example now, shape ``(B,)``.
        logsnr_s: A cleaner level or infinity, shape ``(B,)``.

    Returns:
        Its coefficients, float64.
    """
    alpha_t, sigma_t = alpha_sigma(logsnr_t)
    alpha_s, sigma_s = alpha_sigma(logsnr_s)
    # 1 - exp(logsnr_t - logsnr_s) is beta / sigma_t^2, without the cancellation.
    share = -torch.expm1(logsnr_t.double() - logsnr_s.double())
    return Posterior(
        alpha_s * share,
        alpha_t / alpha_s * (sigma_s / sigma_t) ** 2,
        share * sigma_s**2,
        share * sigma_t**2,
    )


def learned_x0_variance(raw: Tensor, logsnr_t: Tensor, logsnr_s: Tensor) -> Tensor:
    """``Var[x0 | x_t]`` that a learned reverse variance implies.

    The variance of the step is ``exp(f log beta + (1 - f) log beta_tilde)`` (Nichol and Dhariwal
    2021, arXiv:2102.09672); subtracting ``beta_tilde`` leaves what is due to x0.

    Args:
        raw: The network's second half, -1 for ``f = 0`` and 1 for ``f = 1``, shape ``(B, ...)``.
        logsnr_t: Noise level of each example, shape ``(B,)``.
        logsnr_s: The level of the timestep before, finite, shape ``(B,)``.

    Returns:
        Variances, at least 0, shape of ``raw``.
    """
    at = posterior(logsnr_t, logsnr_s)
    # expm1: between neighbouring timesteps the two variances all but cancel.
    extra = torch.expm1((raw + 1) / 2 * per_example((at.beta / at.beta_tilde).log(), raw))
    return per_example(at.beta_tilde / at.x0_weight**2, raw) * extra.clamp(min=0)


def learned_log_variance(raw: Tensor, logsnr_t: Tensor, logsnr_s: Tensor) -> Tensor:
    """Logarithm of the learned variance of a step; see ``learned_x0_variance``."""
    at = posterior(logsnr_t, logsnr_s)
    fraction = (raw + 1) / 2
    upper, lower = (per_example(v.log(), raw) for v in (at.beta, at.beta_tilde))
    return fraction * upper + (1 - fraction) * lower


def step_kl(x0: Tensor, x0_hat: Tensor, raw: Tensor, logsnr_t: Tensor, logsnr_s: Tensor) -> Tensor:
    """``KL(q(x_s | x_t, x0) || p(x_s | x_t))`` with a learned variance, per dimension.

    This is ``L_t`` of the variational bound (Ho et al. 2020, arXiv:2006.11239, equation 5).

    Args:
        x0: Clean data, shape ``(B, ...)``.
        x0_hat: The network's estimate of it; detached, the mean learns nothing from this term.
        raw: The network's second half, same shape.
        logsnr_t: Noise level of each example, shape ``(B,)``.
        logsnr_s: The level of the timestep before, finite, shape ``(B,)``.

    Returns:
        Nats per dimension, shape ``(B,)``, float32.
    """
    at = posterior(logsnr_t, logsnr_s)
    log_ratio = per_example(at.beta_tilde.log(), x0) - learned_log_variance(
        raw.float(), logsnr_t, logsnr_s
    )
    gap = per_example(at.x0_weight**2 / at.beta_tilde, x0) * (x0 - x0_hat).square()
    kl = (log_ratio.exp() * (1 + gap) - 1 - log_ratio) / 2
    return kl.flatten(1).mean(1)
