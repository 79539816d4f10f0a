"""What the network predicts, and the way back from a prediction to clean data.

Names are diffusers' ``prediction_type`` values. To add one, write its two functions and add the
pair to ``PARAMETERIZATIONS``.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from ray_diffusion.diffusion.gaussian import alpha_sigma, per_example


class Parameterization(NamedTuple):
    """The two directions of one prediction type; tensors have shape ``(B, ...)``, logsnr ``(B,)``.

    Attributes:
        target: ``(x0, noise, logsnr) -> prediction``, what a perfect network would say.
        to_x0: ``(prediction, x_t, logsnr) -> x0``, the clean data that a prediction implies.
    """

    target: Callable[[Tensor, Tensor, Tensor], Tensor]
    to_x0: Callable[[Tensor, Tensor, Tensor], Tensor]


def _coefficients(logsnr: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    alpha, sigma = alpha_sigma(logsnr)
    return per_example(alpha, like), per_example(sigma, like)


def _epsilon_target(x0: Tensor, noise: Tensor, logsnr: Tensor) -> Tensor:
    return noise


def _epsilon_to_x0(eps: Tensor, x_t: Tensor, logsnr: Tensor) -> Tensor:
    alpha, sigma = _coefficients(logsnr, x_t)
    return (x_t - sigma * eps) / alpha


def _v_target(x0: Tensor, noise: Tensor, logsnr: Tensor) -> Tensor:
    alpha, sigma = _coefficients(logsnr, x0)
    return alpha * noise - sigma * x0


def _v_to_x0(v: Tensor, x_t: Tensor, logsnr: Tensor) -> Tensor:
    alpha, sigma = _coefficients(logsnr, x_t)
    return alpha * x_t - sigma * v


PARAMETERIZATIONS: dict[str, Parameterization] = {
    # The noise itself (Ho et al. 2020, arXiv:2006.11239).
    "epsilon": Parameterization(_epsilon_target, _epsilon_to_x0),
    # v = alpha * noise - sigma * x0 (Salimans and Ho 2022, arXiv:2202.00512): as well conditioned
    # at pure noise, where epsilon says nothing about x0, as at the clean end.
    "v_prediction": Parameterization(_v_target, _v_to_x0),
}
