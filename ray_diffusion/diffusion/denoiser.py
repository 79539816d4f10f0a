"""``Denoiser(x_t, logsnr, condition) -> x0``: the one thing that solvers see of a model.

Wrappers compose from the inside out: ``clipped(guided(denoiser(network, ...), ...))``.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ray_diffusion.diffusion.gaussian import per_example
from ray_diffusion.diffusion.objective import Network
from ray_diffusion.diffusion.parameterization import PARAMETERIZATIONS

Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(x_t (B, ...), logsnr (B,), condition (B,)) -> x0 (B, ...)``."""


def denoiser(network: Network, prediction_type: str, logsnr_range: tuple[float, float]) -> Denoiser:
    """Read a network as a denoiser.

    Args:
        network: A trained network.
        prediction_type: What it predicts, a key of ``PARAMETERIZATIONS``.
        logsnr_range: Least and greatest logsnr it was trained at. It is told no other: outside,
            its embedding would extrapolate.

    Returns:
        The denoiser.
    """
    to_x0 = PARAMETERIZATIONS[prediction_type].to_x0

    def x0(x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Tensor:
        prediction = network(x_t, logsnr.clamp(*logsnr_range), condition)
        return to_x0(prediction.to(x_t.dtype), x_t, logsnr)

    return x0


def guided(inner: Denoiser, guidance_scale: Tensor, null: int) -> Denoiser:
    """Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598).

    ``x0 = x0_null + guidance_scale * (x0_class - x0_null)``: a scale of 1 is no guidance, and
    costs none. Both halves go through the network in one call.

    Args:
        inner: The denoiser to guide.
        guidance_scale: Scale of each example, shape ``(B,)``.
        null: The class that means "no class".

    Returns:
        The guided denoiser.
    """
    if bool((guidance_scale == 1).all()):
        return inner

    def x0(x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Tensor:
        both = torch.cat([condition, torch.full_like(condition, null)])
        conditional, unconditional = inner(
            x_t.repeat(2, *[1] * (x_t.ndim - 1)), logsnr.repeat(2), both
        ).chunk(2)
        return unconditional + per_example(guidance_scale, x_t) * (conditional - unconditional)

    return x0


def clipped(inner: Denoiser) -> Denoiser:
    """Keep the estimate of clean data in [-1, 1], where pixels live.

    Args:
        inner: The denoiser to clip.

    Returns:
        The clipped denoiser.
    """

    def x0(x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Tensor:
        return inner(x_t, logsnr, condition).clamp(-1, 1)

    return x0
