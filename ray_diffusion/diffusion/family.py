"""DDPM, score networks and SDEs as one process: they differ by a scaling and by which levels exist.

Every Gaussian diffusion is ``a(logsnr) * x0 + b(logsnr) * noise`` with ``a^2 / b^2 = exp(logsnr)``
(Kingma et al. 2021, arXiv:2107.00630), so all of them are one process seen at different scales.
Tensors are kept in the variance-preserving scale, ``a^2 + b^2 = 1``, in which the network is
trained; a family's own scale matters to the solvers that discretise its SDE, and to them alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


def vp_signal(logsnr: Tensor) -> Tensor:
    """Variance preserving: ``a = sqrt(sigmoid(logsnr))``; shape ``(B,)``, float64."""
    return torch.sigmoid(logsnr.double()).sqrt()


def ve_signal(logsnr: Tensor) -> Tensor:
    """Variance exploding: ``a = 1``; shape ``(B,)``, float64."""
    return torch.ones_like(logsnr, dtype=torch.float64)


def sub_vp_signal(logsnr: Tensor) -> Tensor:
    """Sub-VP: the root of ``b = 1 - a^2 = a exp(-logsnr / 2)``; shape ``(B,)``, float64."""
    ratio = torch.exp(-logsnr.double() / 2)
    return 2 / (ratio + (ratio**2 + 4).sqrt())


class Family(NamedTuple):
    """A framework for diffusion.

    Attributes:
        signal: ``logsnr (B,) -> a (B,)``, how much of x0 is in x_t in the family's own scale.
        continuous: Whether the network is trained at every level between the first and the last,
            or at the timesteps alone.
    """

    signal: Callable[[Tensor], Tensor]
    continuous: bool


FAMILIES: dict[str, Family] = {
    # Ho et al. 2020 (arXiv:2006.11239).
    "ddpm": Family(vp_signal, continuous=False),
    # Noise-conditional score networks, Song and Ermon 2019 (arXiv:1907.05600).
    "sgm": Family(ve_signal, continuous=False),
    # The three SDEs of Song et al. 2021 (arXiv:2011.13456).
    "vp_sde": Family(vp_signal, continuous=True),
    "ve_sde": Family(ve_signal, continuous=True),
    "sub_vp_sde": Family(sub_vp_signal, continuous=True),
}
