"""Beta schedules. A schedule is a function ``T -> betas``; everything else is derived from it.

Tables are float64: in float32 the cumulative product alone costs 1.7e-4 of relative error in
``1 - alpha_bar[0]`` at T = 1000. Cast at use.

To add a schedule, write a function ``(T, **options) -> betas`` and add it to ``SCHEDULES``.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

MAX_BETA = 0.999  # a beta of 1 would make alpha_bar 0 and the logsnr minus infinity
MAX_TERMINAL_SIGNAL = 0.1  # largest sqrt(alpha_bar) at which x_T still passes for pure noise


def linear(T: int, *, beta_start: float = 1e-4, beta_end: float = 0.02, **_: float) -> Tensor:
    """Linearly growing betas (Ho et al. 2020, arXiv:2006.11239, section 4), fair across T.

    The end points are those of T = 1000. For any other T they are scaled by ``1000 / T``, so the
    last step is as noisy as that of T = 1000: without it a sweep over T would compare runs whose
    x_T still holds signal (T = 250: 28 %) with runs whose x_T does not.

    Args:
        T: Number of timesteps, at least 2.
        beta_start: First beta at T = 1000, in (0, 1).
        beta_end: Last beta at T = 1000, in (0, 1).

    Returns:
        Betas in (0, 0.999], shape ``(T,)``, float64.
    """
    scale = 1000 / T
    betas = torch.linspace(scale * beta_start, scale * beta_end, T, dtype=torch.float64)
    return betas.clamp(max=MAX_BETA)


def cosine(T: int, *, s: float = 0.008, **_: float) -> Tensor:
    """The squared-cosine schedule (Nichol and Dhariwal 2021, arXiv:2102.09672, section 3.2).

    ``alpha_bar(u) = cos^2((u + s) / (1 + s) * pi / 2)`` at ``u = t / T``, divided by its value
    at ``u = 0``.

    Args:
        T: Number of timesteps, at least 2.
        s: Offset that keeps the first betas from vanishing.

    Returns:
        Betas in (0, 0.999], shape ``(T,)``, float64.
    """
    u = torch.linspace(0, 1, T + 1, dtype=torch.float64)
    alpha_bar = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=MAX_BETA)


SCHEDULES: dict[str, Callable[..., Tensor]] = {"linear": linear, "cosine": cosine}


def logsnr_table(betas: Tensor) -> Tensor:
    """The noise level of each timestep.

    ``logsnr[t] = log(alpha_bar[t] / (1 - alpha_bar[t]))`` with
    ``alpha_bar[t] = prod_{i <= t} (1 - beta[i])``.

    >>> table = logsnr_table(linear(1000))
    >>> f"{table[0]:.2f} ... {table[-1]:.2f}"
    '9.21 ... -10.12'

    Args:
        betas: Noise added by each step, in (0, 1), shape ``(T,)``.

    Returns:
        Strictly decreasing logsnr, shape ``(T,)``, float64.
    """
    log_alpha_bar = torch.log1p(-betas.double()).cumsum(0)
    # log(1 - alpha_bar) through expm1: exact where alpha_bar is within rounding of 1.
    return log_alpha_bar - torch.log(-torch.expm1(log_alpha_bar))


def table(name: str, T: int, **options: float) -> Tensor:
    """The logsnr table of a named schedule, checked to end in noise.

    Args:
        name: A key of ``SCHEDULES``.
        T: Number of timesteps, at least 2.
        options: What the schedule takes beyond T; the rest is ignored.

    Returns:
        Strictly decreasing logsnr, shape ``(T,)``, float64.

    Raises:
        ValueError: If x_T would keep more than a tenth of the signal. Sampling starts from pure
            noise, which such a network has never seen.
    """
    logsnr = logsnr_table(SCHEDULES[name](T, **options))
    signal = torch.sigmoid(logsnr[-1]).sqrt().item()
    if signal > MAX_TERMINAL_SIGNAL:
        raise ValueError(
            f"the noisiest timestep of the {name} schedule keeps {signal:.0%} of the signal, more "
            f"than {MAX_TERMINAL_SIGNAL:.0%}; sampling starts from pure noise, so raise the betas"
        )
    return logsnr
