"""The error of a model at fixed noise levels, and all that follows from it without the model.

With ``e(logsnr) = E |noise - eps|^2 / d``, every usual loss is ``e`` integrated with some weight
(Kingma and Gao 2023, arXiv:2303.00848), and the schedule enters through that weight alone. So a
loss averaged over a schedule's own timesteps compares schedules, not models: a schedule that
visits easy levels wins. ``e`` at fixed levels does not depend on schedule, T, weighting or
prediction type, and it is the objective by which runs are compared.
"""

import hashlib
import math

import torch
from torch import Tensor

from ray_diffusion.diffusion.denoiser import Denoiser, with_x0_variance
from ray_diffusion.diffusion.gaussian import add_noise
from ray_diffusion.diffusion.interpolation import interpolated

PROFILE_LEVELS = tuple(range(-9, 10))
SCORE_LEVELS = tuple(range(-6, 5))
SCORE_VERSION = "score/v1"  # raise it with any change to what the score measures
VLB_LEVELS = (-8, 7)


def fingerprint() -> str:
    """What scores must share to be compared: the version, and a hash of the levels."""
    text = repr((PROFILE_LEVELS, SCORE_LEVELS))
    return f"{SCORE_VERSION}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def eps_error(
    denoiser: Denoiser, x0: Tensor, condition: Tensor, logsnr: Tensor, noise: Tensor
) -> Tensor:
    """Squared error of the noise that a model's estimate implies.

    ``noise - eps = alpha / sigma (x0_hat - x0)``.

    Args:
        denoiser: The model, neither guided nor clipped.
        x0: Clean data, shape ``(B, ...)``.
        condition: Class of each example, shape ``(B,)``.
        logsnr: Noise level of each example, shape ``(B,)``.
        noise: Standard normal noise, shape of ``x0``.

    Returns:
        Mean over the dimensions of each example, shape ``(B,)``, float64.
    """
    x0_hat = denoiser(add_noise(x0, noise, logsnr), logsnr, condition).x0
    return logsnr.double().exp() * (x0_hat - x0).double().square().flatten(1).mean(1)


def score(profile: Tensor) -> float:
    """The objective, ``val/score``: the mean error over logsnr -6, -5, ... 4; lower is better.

    Levels below -6 show no image and levels above 4 no visible noise.

    Args:
        profile: Errors at ``PROFILE_LEVELS``, shape ``(19,)``.

    Returns:
        The mean over ``SCORE_LEVELS``.
    """
    return float(profile[[PROFILE_LEVELS.index(level) for level in SCORE_LEVELS]].mean())


def vlb_bpd(profile: Tensor) -> float:
    """The diffusion part of the continuous variational bound between logsnr -8 and 7.

    ``1/2 int e(logsnr) d logsnr`` (Kingma et al. 2021, arXiv:2107.00630), by the trapezoid rule.
    Fixed ends leave out the prior's and the decoder's part, which depend on the choice of ends.

    Args:
        profile: Errors at ``PROFILE_LEVELS``, shape ``(19,)``.

    Returns:
        Bits per dimension.
    """
    first, last = (PROFILE_LEVELS.index(level) for level in VLB_LEVELS)
    inside = profile.double()[first : last + 1]
    return float(torch.trapezoid(inside) / 2 / math.log(2))


def coverage(table: Tensor) -> float:
    """Share of the score's levels that a schedule trains, give or take half a unit of logsnr.

    Args:
        table: The schedule's logsnr, shape ``(T,)``.

    Returns:
        1 if every level has a timestep within 1/2 of it; less means the score looks where the
        network was never trained.
    """
    gaps = (torch.tensor(SCORE_LEVELS)[:, None] - table.cpu()[None]).abs().amin(1)
    return float((gaps <= 0.5).double().mean())


def x0_variance(profile: Tensor) -> Tensor:
    """``E Var[x0 | x_t]`` per dimension at ``PROFILE_LEVELS``: ``e(logsnr) exp(-logsnr)``.

    It is what the analytic reverse variance needs (Bao et al. 2022, arXiv:2201.06503).

    Args:
        profile: Errors at ``PROFILE_LEVELS``, shape ``(19,)``.

    Returns:
        Variances, shape ``(19,)``, float64.
    """
    levels = torch.tensor(PROFILE_LEVELS, dtype=torch.float64)
    return profile.double() * torch.exp(-levels)


def with_analytic_variance(inner: Denoiser, profile: Tensor) -> Denoiser:
    """Tell solvers how uncertain clean data is at each level, as its profile knows it.

    Args:
        inner: The denoiser.
        profile: Its errors at ``PROFILE_LEVELS``, shape ``(19,)``.

    Returns:
        The denoiser with ``x0_var``.
    """
    levels = torch.tensor(PROFILE_LEVELS, dtype=torch.float64)
    return with_x0_variance(inner, levels, x0_variance(profile))


def error_at(profile: Tensor, logsnr: Tensor) -> Tensor:
    """The profile between its levels, linear in logsnr; constant beyond.

    Args:
        profile: Errors at ``PROFILE_LEVELS``, shape ``(19,)``.
        logsnr: Where, shape ``(K,)``.

    Returns:
        Errors, shape ``(K,)``, float64.
    """
    return interpolated(logsnr, torch.tensor(PROFILE_LEVELS).double(), profile.double())


def chain_bpd(profile: Tensor, levels: Tensor) -> float:
    """The diffusion part of the bound of a chain along given levels, with the best variances.

    A step from ``t`` to ``s`` whose variance is that of ``q(x_s | x_t)`` costs
    ``1/2 log(1 + (snr_s - snr_t) e(logsnr_t) / snr_t)`` per dimension; no model is called.

    Args:
        profile: Errors at ``PROFILE_LEVELS``, shape ``(19,)``.
        levels: Increasing, finite logsnr of the chain, shape ``(K,)``.

    Returns:
        Bits per dimension.
    """
    before, after = levels[:-1].double(), levels[1:].double()
    uncertainty = torch.expm1(after - before) * error_at(profile, before)
    return float(torch.log1p(uncertainty).sum() / 2 / math.log(2))
