"""One reverse step, from a noise level to a cleaner one: pure and element-wise in the batch.

A solver is a function from what the network just said, and what it said the time before, to the
next point. Each example has its own levels, so a batch may mix timesteps, step counts and
requests. A step to ``logsnr = +inf`` ends in clean data; a step to the level where it stands is
a correction, by which solvers that look twice at a level (``Solver.visits``) improve the point.

To add a solver, write its step and add it to ``SOLVERS``.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ray_diffusion.diffusion.family import vp_signal
from ray_diffusion.diffusion.gaussian import alpha_sigma, per_example
from ray_diffusion.diffusion.variance import posterior

# Langevin step lengths in units of sigma^2. Annealed: Song and Ermon 2019 (arXiv:1907.05600) use
# 2e-5 / 0.01^2 / 2. Corrector: twice the square of the signal-to-noise ratio 0.16 of Song et al.
# 2021 (arXiv:2011.13456).
ANNEALED_STEP, CORRECTOR_STEP = 0.1, 2 * 0.16**2


class Visit(NamedTuple):
    """One evaluation of the network: where, and what it said.

    Attributes:
        x_t: Noisy data, shape ``(B, ...)``.
        logsnr: Its noise level, shape ``(B,)``; NaN says that there was no such visit.
        x0: The estimate of clean data, shape ``(B, ...)``.
        x0_var: Its variance, broadcastable to that; None if unknown.
    """

    x_t: Tensor
    logsnr: Tensor
    x0: Tensor
    x0_var: Tensor | None = None


class Options(NamedTuple):
    """What a request may say beyond the name of the solver.

    Attributes:
        eta: Noise that ``ddim`` adds, in [0, 1]; 1 is ``ddpm``.
        upper_variance: Whether ``ddpm`` uses the variance ``beta`` in place of ``beta_tilde``.
        signal: The family's scale, in which SDEs are discretised.
    """

    eta: float = 0.0
    upper_variance: bool = False
    signal: Callable[[Tensor], Tensor] = vp_signal


DEFAULTS = Options()
Step = Callable[[Visit, Visit, Tensor, Tensor, Options], Tensor]
"""``(now, before, logsnr_s (B,), noise (B, ...), options) -> x_s (B, ...)``."""


def nowhere(x_t: Tensor) -> Visit:
    """The visit before the first."""
    return Visit(x_t, x_t.new_full((len(x_t),), torch.nan), x_t)


def ddim_step(
    now: Visit, before: Visit, logsnr_s: Tensor, noise: Tensor, options: Options = DEFAULTS
) -> Tensor:
    """DDIM (Song et al. 2020, arXiv:2010.02502, equations 12 and 16).

    At ``eta = 0`` it is the exponential Euler step of the probability flow, and the same as Euler's
    method on ``d(x / alpha) / d(sigma / alpha)`` (Karras et al. 2022, arXiv:2206.00364).

    Args:
        now: The newest visit.
        before: Unused.
        logsnr_s: The next noise level of each example, shape ``(B,)``.
        noise: Standard normal noise, shape of ``x_t``; unused at ``eta = 0``.
        options: ``eta`` counts.

    Returns:
        Data at ``logsnr_s``, shape and dtype of ``x_t``; as of every step below.
    """
    alpha_t, sigma_t = alpha_sigma(now.logsnr)
    alpha_s, sigma_s = alpha_sigma(logsnr_s)
    std = options.eta * posterior(now.logsnr, logsnr_s).beta_tilde.clamp(min=0).sqrt()
    keep = (sigma_s**2 - std**2).clamp(min=0).sqrt() / sigma_t
    x = per_example(keep, now.x_t) * now.x_t
    x = x + per_example(alpha_s - keep * alpha_t, now.x_t) * now.x0
    return x + per_example(std, x) * noise if options.eta else x


def ddpm_step(
    now: Visit, before: Visit, logsnr_s: Tensor, noise: Tensor, options: Options = DEFAULTS
) -> Tensor:
    """An ancestral step (Ho et al. 2020, arXiv:2006.11239, algorithm 2), of any length.

    Its variance is ``beta``, or ``beta_tilde`` and what the visit knows of ``Var[x0 | x_t]``; see
    ``variance``. The last step, into clean data, adds no noise.
    """
    at = posterior(now.logsnr, logsnr_s)
    x = per_example(at.x0_weight, now.x_t) * now.x0 + per_example(at.x_t_weight, now.x_t) * now.x_t
    variance = per_example(at.beta if options.upper_variance else at.beta_tilde, x)
    if now.x0_var is not None and not options.upper_variance:
        variance = variance + per_example(at.x0_weight, x) ** 2 * now.x0_var
    variance = torch.where(_rows(torch.isinf(logsnr_s), x), 0.0, variance)
    return x + variance.sqrt() * noise


def dpmpp_2m_step(
    now: Visit, before: Visit, logsnr_s: Tensor, noise: Tensor, options: Options = DEFAULTS
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, algorithm 2): second order, one call.

    Half the logsnr is the paper's lambda. The first step, and the one into clean data, are of
    first order.
    """
    alpha_s, sigma_s = alpha_sigma(logsnr_s)
    _, sigma_t = alpha_sigma(now.logsnr)
    h, h_before = (logsnr_s - now.logsnr).double() / 2, (now.logsnr - before.logsnr).double() / 2
    multistep = torch.isfinite(h) & torch.isfinite(h_before)
    lean = per_example(torch.where(multistep, h / (2 * h_before), 0.0), now.x_t)
    x0 = (1 + lean) * now.x0 - lean * before.x0
    x = per_example(sigma_s / sigma_t, x0) * now.x_t
    return x - per_example(alpha_s * torch.expm1(-h), x0) * x0


def heun_step(
    now: Visit, before: Visit, logsnr_s: Tensor, noise: Tensor, options: Options = DEFAULTS
) -> Tensor:
    """Heun's method on ``d(x / alpha) / d(sigma / alpha)`` (Karras et al. 2022, arXiv:2206.00364).

    A step is Euler's; standing where it ends, the point moves to where the mean of the slopes at
    both ends leads.
    """
    alpha, _ = alpha_sigma(now.logsnr)
    # Half of sigma_before / sigma - 1, in that time; after Euler's step all else cancels.
    lean = torch.expm1((now.logsnr - before.logsnr).double() / 2) / 2
    corrected = now.x_t + per_example(alpha * lean, now.x_t) * (now.x0 - before.x0)
    return _corrected(now, logsnr_s, ddim_step(now, before, logsnr_s, noise), corrected)


def euler_maruyama_step(
    now: Visit, before: Visit, logsnr_s: Tensor, noise: Tensor, options: Options = DEFAULTS
) -> Tensor:
    """Euler-Maruyama on the reverse SDE of the family (Song et al. 2021, arXiv:2011.13456).

    In the family's scale the forward SDE is ``dx = d(log a) x + g dw``; the variance that ``g``
    adds over the step is ``b_t^2 (1 - exp(logsnr_t - logsnr_s))`` in every family. The last step
    takes the estimate of clean data.
    """
    x, x0 = now.x_t, now.x0
    signal_t, signal_s = options.signal(now.logsnr), options.signal(logsnr_s)
    to_family = signal_t / vp_signal(now.logsnr)
    from_family = vp_signal(logsnr_s) / signal_s
    share = -torch.expm1(now.logsnr.double() - logsnr_s.double())
    added = signal_t * torch.exp(-now.logsnr.double() / 2) * share.clamp(min=0).sqrt()
    keep = (1 + torch.log(signal_s / signal_t) - share) * to_family
    moved = per_example(keep * from_family, x) * x
    moved = moved + per_example(share * signal_t * from_family, x) * x0
    moved = moved + per_example(added * from_family, x) * noise
    return torch.where(_rows(torch.isinf(logsnr_s), x), x0, moved)


def _langevin(now: Visit, noise: Tensor, length: float) -> Tensor:
    """A step along the score plus noise; of ``length`` times the variance of the noise in x_t."""
    alpha, sigma = alpha_sigma(now.logsnr)
    pull = now.x_t - per_example(alpha, now.x_t) * now.x0
    return now.x_t - length * pull + per_example((2 * length) ** 0.5 * sigma, now.x_t) * noise


def predictor_corrector_step(
    now: Visit, before: Visit, logsnr_s: Tensor, noise: Tensor, options: Options = DEFAULTS
) -> Tensor:
    """Euler-Maruyama, and one Langevin step where it ends (Song et al. 2021, arXiv:2011.13456)."""
    predicted = euler_maruyama_step(now, before, logsnr_s, noise, options)
    return _corrected(now, logsnr_s, predicted, _langevin(now, noise, CORRECTOR_STEP))


def langevin_step(
    now: Visit, before: Visit, logsnr_s: Tensor, noise: Tensor, options: Options = DEFAULTS
) -> Tensor:
    """Annealed Langevin dynamics (Song and Ermon 2019, arXiv:1907.05600).

    Every step moves along the score at its level; going to the next level leaves
    ``x / alpha`` as it is. The last step takes the estimate of clean data.
    """
    moved = _langevin(now, noise, ANNEALED_STEP)
    ratio = vp_signal(logsnr_s) / vp_signal(now.logsnr)
    return torch.where(
        _rows(torch.isinf(logsnr_s), moved), now.x0, per_example(ratio, moved) * moved
    )


def _corrected(now: Visit, logsnr_s: Tensor, predicted: Tensor, corrected: Tensor) -> Tensor:
    return torch.where(_rows(logsnr_s == now.logsnr, now.x_t), corrected, predicted)


def _rows(mask: Tensor, like: Tensor) -> Tensor:
    return mask.view(-1, *[1] * (like.ndim - 1))


class Solver(NamedTuple):
    """A named way to take reverse steps.

    Attributes:
        step: The step.
        visits: How often it evaluates the network at each level after the first.
        stochastic: Whether the step uses its noise; ``ddim`` does if ``eta`` is above 0.
    """

    step: Step
    visits: int = 1
    stochastic: bool = False


SOLVERS: dict[str, Solver] = {
    "ddim": Solver(ddim_step),
    "ddpm": Solver(ddpm_step, stochastic=True),
    "euler": Solver(ddim_step),  # by its other name
    "heun": Solver(heun_step, visits=2),
    "dpmpp_2m": Solver(dpmpp_2m_step),
    "euler_maruyama": Solver(euler_maruyama_step, stochastic=True),
    "predictor_corrector": Solver(predictor_corrector_step, visits=2, stochastic=True),
    "langevin": Solver(langevin_step, visits=5, stochastic=True),
}
