"""``Denoiser(x_t, logsnr, condition) -> Estimate``: the one thing that solvers see of a model.

Wrappers compose from the inside out: ``clipped(guided(denoiser(network, ...), ...))``.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ray_diffusion.diffusion.gaussian import per_example
from ray_diffusion.diffusion.interpolation import interpolated
from ray_diffusion.diffusion.objective import Network
from ray_diffusion.diffusion.parameterization import network_input, to_x0
from ray_diffusion.diffusion.variance import learned_x0_variance


class Estimate(NamedTuple):
    """What a model says about clean data, given noisy data.

    Attributes:
        x0: Its mean, ``E[x0 | x_t]``, shape ``(B, ...)``.
        x0_var: Its variance in each dimension, broadcastable to that; None if the model has
            nothing to say about it.
    """

    x0: Tensor
    x0_var: Tensor | None = None


Denoiser = Callable[[Tensor, Tensor, Tensor], Estimate]
"""``(x_t (B, ...), logsnr (B,), condition (B,)) -> Estimate``."""


def denoiser(
    network: Network, prediction_type: str, table: Tensor, learned_variance: bool = False
) -> Denoiser:
    """Read a network as a denoiser.

    Args:
        network: A trained network.
        prediction_type: What it predicts, a key of ``PARAMETERIZATIONS``.
        table: The logsnr it was trained at, strictly decreasing, shape ``(T,)``. It is told no
            level beyond: its embedding would extrapolate.
        learned_variance: Whether the second half of its output is a learned variance.

    Returns:
        The denoiser.
    """
    noisiest, cleanest = float(table[-1]), float(table[0])

    def estimate(x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Estimate:
        told = logsnr.clamp(noisiest, cleanest)
        output = network(network_input(prediction_type, x_t, logsnr), told, condition)
        if not learned_variance:
            return Estimate(to_x0(prediction_type, output, x_t, logsnr))
        prediction, raw = output.to(x_t.dtype).chunk(2, dim=1)
        x0_var = learned_x0_variance(raw, told, _timestep_before(table, told))
        return Estimate(to_x0(prediction_type, prediction, x_t, logsnr), x0_var)

    return estimate


def _timestep_before(table: Tensor, logsnr: Tensor) -> Tensor:
    """The next cleaner level of the table; the first timestep has none and takes its own plus 1."""
    rising = table.flip(0).to(logsnr.device)
    after = torch.cat([rising, rising[-1:] + 1])
    return after[torch.searchsorted(rising, logsnr.double(), right=True)]


def with_x0_variance(inner: Denoiser, levels: Tensor, x0_vars: Tensor) -> Denoiser:
    """Tell solvers how uncertain clean data is at each level: the analytic reverse variance.

    Args:
        inner: The denoiser.
        levels: logsnr at which the uncertainty is known, increasing, shape ``(K,)``.
        x0_vars: Mean over dimensions of ``Var[x0 | x_t]`` there, above 0, shape ``(K,)``; what a
            profile says (``profile.x0_variance``).

    Returns:
        The denoiser with ``x0_var``, between the levels interpolated in its logarithm.
    """
    logarithms = x0_vars.double().log()

    def estimate(x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Estimate:
        known = interpolated(logsnr, levels.to(logsnr.device), logarithms.to(logsnr.device))
        return Estimate(inner(x_t, logsnr, condition).x0, per_example(known.exp(), x_t))

    return estimate


def without_x0_variance(inner: Denoiser) -> Denoiser:
    """Forget what a model says about the variance of clean data: solvers take ``beta_tilde``."""

    def estimate(x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Estimate:
        return Estimate(inner(x_t, logsnr, condition).x0)

    return estimate


def guided(inner: Denoiser, guidance_scale: Tensor, null: int) -> Denoiser:
    """Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598).

    ``x0 = x0_null + guidance_scale * (x0_class - x0_null)``: a scale of 1 is no guidance, and
    costs none. Both halves go through the network in one call.

    Args:
        inner: The denoiser to guide.
        guidance_scale: Scale of each example, shape ``(B,)``.
        null: The class that means "no class".

    Returns:
        The guided denoiser; the variance is that of the class.
    """
    if bool((guidance_scale == 1).all()):
        return inner

    def estimate(x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Estimate:
        both = torch.cat([condition, torch.full_like(condition, null)])
        twice = inner(x_t.repeat(2, *[1] * (x_t.ndim - 1)), logsnr.repeat(2), both)
        conditional, unconditional = twice.x0.chunk(2)
        x0 = unconditional + per_example(guidance_scale, x_t) * (conditional - unconditional)
        return Estimate(x0, None if twice.x0_var is None else twice.x0_var.chunk(2)[0])

    return estimate


def clipped(inner: Denoiser) -> Denoiser:
    """Keep the estimate of clean data in [-1, 1], where pixels live.

    Args:
        inner: The denoiser to clip.

    Returns:
        The clipped denoiser.
    """

    def estimate(x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Estimate:
        found = inner(x_t, logsnr, condition)
        return found._replace(x0=found.x0.clamp(-1, 1))

    return estimate
