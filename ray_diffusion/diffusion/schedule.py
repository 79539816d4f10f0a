"""Noise schedules. A schedule is a function ``(T, **options) -> table of logsnr``.

Tables are float64: in float32 the cumulative product alone costs 1.7e-4 of relative error in
``1 - alpha_bar[0]`` at T = 1000. Cast at use.

To add a schedule, write its function and add it to ``SCHEDULES``; ``from_betas``,
``from_alpha_bar`` and ``from_sigmas`` turn the three usual ways of writing one into a table.
"""

import hashlib
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

MAX_BETA = 0.999  # a beta of 1 would make alpha_bar 0 and the logsnr minus infinity
PURE_NOISE = -36.0  # the signal is e^-18: adding it to noise of order 1 changes no float32
MAX_TERMINAL_SIGNAL = 0.1  # largest sqrt(alpha_bar) at which x_T still passes for pure noise
WASTED_BELOW = -5.0  # logsnr at which 8 % of the signal is left: all but the mean is decided above
MAX_WASTED = 0.5  # DDPM's own schedule spends 0.30 of its timesteps there
KARRAS_RHO = 7.0


def from_betas(betas: Tensor) -> Tensor:
    """The table of a schedule that is given by the noise each timestep adds.

    ``logsnr[t] = log(alpha_bar[t] / (1 - alpha_bar[t]))`` with
    ``alpha_bar[t] = prod_{i <= t} (1 - beta[i])`` (Ho et al. 2020, arXiv:2006.11239).

    Args:
        betas: In (0, 1), shape ``(T,)``.

    Returns:
        Strictly decreasing logsnr, shape ``(T,)``, float64.
    """
    log_alpha_bar = torch.log1p(-betas.double()).cumsum(0)
    # log(1 - alpha_bar) through expm1: exact where alpha_bar is within rounding of 1.
    return log_alpha_bar - torch.log(-torch.expm1(log_alpha_bar))


def from_alpha_bar(alpha_bar: Callable[[Tensor], Tensor], T: int) -> Tensor:
    """The table of a schedule that is given by its signal as a function of time.

    Args:
        alpha_bar: Of time in [0, 1]; its value at 0 is divided out.
        T: Number of timesteps; timestep ``t`` stands at time ``(t + 1) / T``.

    Returns:
        Strictly decreasing logsnr, shape ``(T,)``, float64; no beta is above 0.999.
    """
    values = alpha_bar(torch.linspace(0, 1, T + 1, dtype=torch.float64))
    return from_betas((1 - values[1:] / values[:-1]).clamp(max=MAX_BETA))


def from_sigmas(sigmas: Tensor) -> Tensor:
    """The table of a schedule that is given by noise-to-signal ratios (variance exploding).

    Args:
        sigmas: Increasing, above 0, shape ``(T,)``.

    Returns:
        ``-2 log(sigma)``, shape ``(T,)``, float64.
    """
    return -2 * sigmas.double().log()


def _scaled(betas: Tensor, scale_betas: bool) -> Tensor:
    scale = 1000 / len(betas) if scale_betas else 1.0
    return from_betas((scale * betas).clamp(max=MAX_BETA))


def linear(
    T: int, *, beta_start: float, beta_end: float, scale_betas: bool = True, **_: object
) -> Tensor:
    """Linearly growing betas (Ho et al. 2020, arXiv:2006.11239, section 4).

    Args:
        T: Number of timesteps, at least 2.
        beta_start: First beta, in (0, 1).
        beta_end: Last beta, in (0, 1).
        scale_betas: Read both as those of T = 1000, and multiply all betas by ``1000 / T``, so
            that the last timestep is as noisy at any T. Without it a sweep over T compares runs
            whose x_T still holds signal (T = 250: 28 %) with runs whose x_T does not.

    Returns:
        Strictly decreasing logsnr, shape ``(T,)``, float64, as of every schedule below.
    """
    return _scaled(torch.linspace(beta_start, beta_end, T, dtype=torch.float64), scale_betas)


def scaled_linear(
    T: int, *, beta_start: float, beta_end: float, scale_betas: bool = True, **_: object
) -> Tensor:
    """Betas whose square roots grow linearly (Rombach et al. 2022, arXiv:2112.10752, in code)."""
    roots = torch.linspace(beta_start**0.5, beta_end**0.5, T, dtype=torch.float64)
    return _scaled(roots**2, scale_betas)


def sigmoid_betas(
    T: int, *, beta_start: float, beta_end: float, scale_betas: bool = True, **_: object
) -> Tensor:
    """Betas that grow along a sigmoid: GeoDiff's (Xu et al. 2022), diffusers' ``sigmoid``."""
    rise = torch.sigmoid(torch.linspace(-6, 6, T, dtype=torch.float64))
    return _scaled(beta_start + (beta_end - beta_start) * rise, scale_betas)


def cosine(T: int, *, s: float = 0.008, **_: object) -> Tensor:
    """The squared-cosine schedule (Nichol and Dhariwal 2021, arXiv:2102.09672, section 3.2).

    ``alpha_bar(u) = cos^2((u + s) / (1 + s) * pi / 2)``, divided by its value at ``u = 0``; the
    offset ``s`` keeps the first betas from vanishing.
    """
    return from_alpha_bar(lambda u: torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2, T)


def sigmoid(T: int, *, start: float = -3, end: float = 3, tau: float = 1, **_: object) -> Tensor:
    """The sigmoid schedule of Jabri et al. 2022 (arXiv:2212.11972).

    ``alpha_bar(u) = (S(end) - S(start + u (end - start))) / (S(end) - S(start))`` with
    ``S(v) = 1 / (1 + exp(-v / tau))``.
    """
    last = 1 / (1 + math.exp(-end / tau))
    return from_alpha_bar(lambda u: last - torch.sigmoid((start + u * (end - start)) / tau), T)


def laplace(T: int, *, mu: float = 0.0, b: float = 1.0, **_: object) -> Tensor:
    """Levels spread like a Laplace distribution of logsnr (Hang et al. 2024, arXiv:2407.03297).

    ``logsnr(u) = mu - b sign(1/2 - u) log(1 - 2 |u - 1/2|)`` at the middles ``u`` of T equal parts
    of [0, 1]. ``b`` is twice the paper's best for training, 0.5, whose last level still holds 18 %
    of the signal: the paper samples along another schedule.
    """
    u = (torch.arange(T, dtype=torch.float64) + 0.5) / T
    return mu - b * torch.sign(0.5 - u) * torch.log1p(-2 * (u - 0.5).abs())


def geometric(T: int, *, sigma_min: float, sigma_max: float, **_: object) -> Tensor:
    """Noise levels in geometric progression (Song and Ermon 2019, arXiv:1907.05600): VE."""
    return from_sigmas(
        torch.logspace(math.log10(sigma_min), math.log10(sigma_max), T, dtype=torch.float64)
    )


def edm(T: int, *, sigma_min: float, sigma_max: float, **_: object) -> Tensor:
    """Noise levels evenly spaced in ``sigma^(1/7)`` (Karras et al. 2022, arXiv:2206.00364)."""
    return from_sigmas(karras_sigmas(T, sigma_min, sigma_max))


def vp(T: int, *, beta_start: float, beta_end: float, **_: object) -> Tensor:
    """The variance-preserving SDE (Song et al. 2021, arXiv:2011.13456, appendix B).

    ``log alpha_bar(u) = -u^2 (beta_max - beta_min) / 2 - u beta_min`` at ``u = (t + 1) / T``, with
    the rates of the SDE 1000 times the betas.
    """
    log_alpha_bar = _vp_log_alpha_bar(T, beta_start, beta_end)
    return log_alpha_bar - torch.log(-torch.expm1(log_alpha_bar))


def sub_vp(T: int, *, beta_start: float, beta_end: float, **_: object) -> Tensor:
    """The sub-VP SDE (Song et al. 2021, arXiv:2011.13456): the signal of VP, less noise.

    ``alpha = sqrt(alpha_bar)``, ``sigma = 1 - alpha_bar``.
    """
    log_alpha_bar = _vp_log_alpha_bar(T, beta_start, beta_end)
    return log_alpha_bar - 2 * torch.log(-torch.expm1(log_alpha_bar))


def custom(T: int, *, betas: Sequence[float], **_: object) -> Tensor:
    """A table that the user wrote: one beta in (0, 1) for each of the T timesteps."""
    return from_betas(torch.tensor(betas, dtype=torch.float64))


SCHEDULES: dict[str, Callable[..., Tensor]] = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "cosine": cosine,
    "sigmoid": sigmoid,
    "sigmoid_betas": sigmoid_betas,
    "laplace": laplace,
    "geometric": geometric,
    "edm": edm,
    "vp": vp,
    "sub_vp": sub_vp,
    "custom": custom,
}


def _vp_log_alpha_bar(T: int, beta_start: float, beta_end: float) -> Tensor:
    u = torch.arange(1, T + 1, dtype=torch.float64) / T
    return -(u**2) * 1000 * (beta_end - beta_start) / 2 - u * 1000 * beta_start


def karras_sigmas(count: int, first: float, last: float) -> Tensor:
    """Noise-to-signal ratios evenly spaced in ``sigma^(1/7)``; shape ``(count,)``."""
    ends = first ** (1 / KARRAS_RHO), last ** (1 / KARRAS_RHO)
    return torch.linspace(*ends, count, dtype=torch.float64) ** KARRAS_RHO


def with_zero_terminal_snr(table: Tensor) -> Tensor:
    """Bend a schedule so that its last timestep is noise alone (Lin et al. 2023, arXiv:2305.08891).

    ``sqrt(alpha_bar)`` is shifted to end at 0 and stretched to start where it did. A network that
    predicts the noise learns nothing at such a level; predict v or the data.

    Args:
        table: Strictly decreasing logsnr, shape ``(T,)``, ``T >= 2``.

    Returns:
        The bent table, strictly decreasing; its last entry is ``PURE_NOISE`` or below.
    """
    signal = torch.sigmoid(table).sqrt()
    bent = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
    levels = torch.logit(bent**2)
    levels[-1] = min(PURE_NOISE, float(levels[-2]) - 1)
    return levels


def complaints(table: Tensor) -> list[str]:
    """What is wrong with a schedule, in words; nothing for a good one.

    Args:
        table: Strictly decreasing logsnr, shape ``(T,)``.

    Returns:
        At most one sentence each about signal left in x_T, which sampling starts without, and
        about timesteps spent where almost no signal is left.
    """
    found = []
    signal = torch.sigmoid(table[-1]).sqrt().item()
    if signal > MAX_TERMINAL_SIGNAL:
        found.append(
            f"the noisiest timestep keeps {signal:.0%} of the signal, but sampling starts from "
            "pure noise; raise the betas or set diffusion.rescale_zero_terminal_snr"
        )
    wasted = (table < WASTED_BELOW).double().mean().item()
    if wasted > MAX_WASTED:
        found.append(
            f"{wasted:.0%} of the timesteps lie below logsnr {WASTED_BELOW:g}, where almost no "
            "signal is left to learn from; lower the betas or T"
        )
    return found


def fingerprint(table: Tensor) -> str:
    """Twelve hexadecimal digits that two runs share if they have the same noise levels.

    Args:
        table: Shape ``(T,)``.

    Returns:
        A hash of the table to six decimals, which no processor's rounding reaches.
    """
    text = ",".join(f"{level:.6f}" for level in table.tolist())
    return hashlib.sha256(text.encode()).hexdigest()[:12]
