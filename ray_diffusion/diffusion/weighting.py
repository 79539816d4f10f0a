"""How much each noise level counts in the training loss.

A weighting says how much the squared error of the *noise* counts at a level, whatever the network
predicts; ``weight`` converts. The exception is ``uniform``, which leaves the error of the
prediction as it is, as Ho et al. 2020 (arXiv:2006.11239) do.

Kingma and Gao 2023 (arXiv:2303.00848) show that a loss depends on the schedule through
``weight * density`` alone, with the density of the levels that training draws. ``vlb`` and
``sigmoid`` are defined in those terms, so they divide by the density.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ray_diffusion.diffusion.parameterization import SIGMA_DATA, eps_error_per_error

SIGMOID_BIAS = 2.0  # logsnr at which the sigmoid weighting has fallen to a half


def vlb(logsnr: Tensor, density: Tensor, gamma: float) -> Tensor:
    """The same for every unit of logsnr: the variational bound, up to a constant."""
    return 1 / density


def min_snr(logsnr: Tensor, density: Tensor, gamma: float) -> Tensor:
    """``min(snr, gamma) / snr`` (Hang et al. 2023, arXiv:2303.09556)."""
    return (gamma * torch.exp(-logsnr)).clamp(max=1)


def soft_min_snr(logsnr: Tensor, density: Tensor, gamma: float) -> Tensor:
    """``gamma / (snr + gamma)``: smooth (Crowson et al. 2024, arXiv:2401.11605)."""
    return gamma / (torch.exp(logsnr) + gamma)


def p2(logsnr: Tensor, density: Tensor, gamma: float) -> Tensor:
    """``1 / (1 + snr)`` (Choi et al. 2022, arXiv:2204.00227, with k and gamma both 1)."""
    return torch.sigmoid(-logsnr)


def edm(logsnr: Tensor, density: Tensor, gamma: float) -> Tensor:
    """``(sigma^2 + sigma_data^2) / sigma_data^2`` (Karras et al. 2022, arXiv:2206.00364)."""
    return 1 + torch.exp(-logsnr) / SIGMA_DATA**2


def sigmoid(logsnr: Tensor, density: Tensor, gamma: float) -> Tensor:
    """``sigmoid(2 - logsnr)`` for every unit of logsnr (Kingma and Gao 2023, arXiv:2303.00848)."""
    return torch.sigmoid(SIGMOID_BIAS - logsnr) / density


def uniform(logsnr: Tensor, density: Tensor, gamma: float) -> Tensor:
    """All levels alike, in the error of the prediction itself."""
    return torch.ones_like(logsnr)


WEIGHTINGS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "uniform": uniform,
    "vlb": vlb,
    "min_snr": min_snr,
    "soft_min_snr": soft_min_snr,
    "p2": p2,
    "edm": edm,
    "sigmoid": sigmoid,
}


def weight(
    weighting: str, prediction_type: str, logsnr: Tensor, density: Tensor, gamma: float
) -> Tensor:
    """What the squared error of a prediction is multiplied by.

    Args:
        weighting: A key of ``WEIGHTINGS``.
        prediction_type: A key of ``PARAMETERIZATIONS``.
        logsnr: Noise level of each example, shape ``(B,)``.
        density: Density at which training draws that level, per unit of logsnr, shape ``(B,)``.
        gamma: Where ``min_snr`` and ``soft_min_snr`` cap the signal-to-noise ratio.

    Returns:
        The weights, above 0, shape ``(B,)``, float32.
    """
    weights = WEIGHTINGS[weighting](logsnr.double(), density.double(), gamma)
    if weighting != "uniform":
        weights = weights * eps_error_per_error(prediction_type, logsnr)
    return weights.float()
