"""How probable a model finds given images: bits per dimension, by two roads.

The variational bound is what the ancestral chain promises; with 8-bit images it is the length of
a code that could be written. The probability flow's density is that of the deterministic solvers.
Neither ranks runs: both depend on where the levels end, and favour details that no one sees.

Between fixed ends the bound has a limit for short steps, which a profile knows without the model:
``prior_kl``, ``profile.vlb_bpd`` and a decoder.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ray_diffusion.diffusion.denoiser import Denoiser, Estimate
from ray_diffusion.diffusion.gaussian import add_noise, alpha_sigma, per_example
from ray_diffusion.diffusion.random import per_example_noise
from ray_diffusion.diffusion.sampling import visit
from ray_diffusion.diffusion.solvers import Visit, ddim_step, heun_step

GREY = 1 / 127.5  # distance of two grey levels of 256 in [-1, 1]
LEAST_SD = 0.1 * GREY  # a surer decoder gains a millionth of a bit, and loses all on an outlier


class Bound(NamedTuple):
    """An upper bound on the code length of each example, bits per dimension, shape ``(B,)``.

    Attributes:
        prior: What is left of the image in the noisiest level, ``L_T``.
        diffusion: The reverse steps, ``L_{T-1} + ... + L_1``.
        decoder: From the cleanest level to pixels, ``L_0``.
    """

    prior: Tensor
    diffusion: Tensor
    decoder: Tensor

    @property
    def total(self) -> Tensor:
        """The bound."""
        return self.prior + self.diffusion + self.decoder


@torch.no_grad()
def discrete_vlb(
    denoiser: Denoiser,
    x0: Tensor,
    condition: Tensor,
    levels: Tensor,
    seed: int,
    indices: list[int],
) -> Bound:
    """The variational bound of the ancestral chain along given levels.

    Ho et al. 2020 (arXiv:2006.11239, equation 5), with a draw of noise per level. The variance
    of a step is ``beta_tilde + c0^2 x0_var``, as that of ``solvers.ddpm_step``: wrap the denoiser
    in ``with_x0_variance`` or ``without_x0_variance`` to choose. Any levels give a bound, that
    of the chain that visits them; with ``beta_tilde`` alone it is loose where steps are long.

    Args:
        denoiser: The model, neither guided nor clipped.
        x0: 8-bit images, mapped to [-1, 1], shape ``(B, ...)``.
        condition: Class of each image, shape ``(B,)``.
        levels: Increasing, finite logsnr, shape ``(K,)``: a table from its end, or a grid of it.
        seed: Of the noise.
        indices: Index of each image: its noise depends on ``(seed, index)`` alone.

    Returns:
        The parts of the bound.

    Raises:
        ValueError: If the levels are not increasing and finite.
    """
    levels, batch = _increasing(levels).to(x0.device), len(x0)
    diffusion = torch.zeros(batch, dtype=torch.float64, device=x0.device)
    for k, level in enumerate(levels):
        logsnr = level.expand(batch)
        noise = per_example_noise(f"vlb {k}", seed, indices, x0.shape[1:], x0.device)
        found = denoiser(add_noise(x0, noise, logsnr), logsnr, condition)
        if k + 1 < len(levels):
            diffusion += _step_kl(x0, found, logsnr, levels[k + 1].expand(batch))
    _, sigma = alpha_sigma(logsnr)
    # beta_tilde of a step into clean data is 0; its beta, sigma^2, is the other choice of DDPM.
    sd = per_example(sigma, x0) if found.x0_var is None else found.x0_var.double().sqrt()
    log_prob = discretised_gaussian_log_prob(x0, found.x0, sd)
    parts = prior_kl(x0, levels[0].expand(batch)), diffusion, -log_prob.flatten(1).mean(1)
    return Bound(*(part / math.log(2) for part in parts))


def prior_kl(x0: Tensor, logsnr: Tensor) -> Tensor:
    """``KL(q(x_T | x0) || N(0, 1))``: what starting from pure noise costs.

    Args:
        x0: Clean data, shape ``(B, ...)``.
        logsnr: The noisiest level of each example, shape ``(B,)``.

    Returns:
        Nats per dimension, shape ``(B,)``, float64.
    """
    level, square = logsnr.double(), x0.double().square().flatten(1).mean(1)
    # softplus is -log(sigma^2).
    return (torch.sigmoid(level) * (square - 1) + softplus(level)) / 2


def discretised_gaussian_log_prob(x0: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    """Log-probability of grey levels under a Gaussian that is rounded to the nearest of 256.

    Ho et al. 2020 (arXiv:2006.11239, section 3.3): the outermost levels have all that is beyond.

    Args:
        x0: Grey levels ``k / 127.5 - 1``, ``k`` in 0..255, any shape.
        mean: Of the Gaussian, broadcastable.
        sd: Of the Gaussian; less than a tenth of a grey level counts as that.

    Returns:
        Nats, float64; finite however far off the mean is.
    """
    level = ((x0.double() + 1) / GREY).round()
    sd = sd.double().clamp(min=LEAST_SD)
    below, above = (((level + half) * GREY - 1 - mean) / sd for half in (-0.5, 0.5))
    below = torch.where(level <= 0, -torch.inf, below)
    above = torch.where(level >= 255, torch.inf, above)
    # In the right tail both distribution functions are 1: look at it from the other side.
    mirrored = below + above > 0
    below, above = (torch.where(mirrored, *pair) for pair in ((-above, below), (-below, above)))
    log_below, log_above = torch.special.log_ndtr(below), torch.special.log_ndtr(above)
    log_prob: Tensor = log_above + torch.log(-torch.expm1(log_below - log_above))
    return log_prob


def ode_bpd(
    denoiser: Denoiser,
    x0: Tensor,
    condition: Tensor,
    levels: Tensor,
    seed: int,
    indices: list[int],
    num_probes: int = 1,
) -> Tensor:
    """Bits per dimension of 8-bit images by the probability flow.

    Each pixel is spread evenly over its grey level (uniform dequantisation); the mean of the
    result over such draws is an upper bound on the code length.

    Args:
        denoiser: The model.
        x0: 8-bit images, mapped to [-1, 1], shape ``(B, ...)``.
        condition: Class of each image, shape ``(B,)``.
        levels: Increasing, finite logsnr, shape ``(K,)``; ``grids.uniform_logsnr`` is a good one.
        seed: Of all draws.
        indices: Index of each image: its draws depend on ``(seed, index)`` alone.
        num_probes: Of the trace, see ``ode_log_density``.

    Returns:
        Bits per dimension, shape ``(B,)``, float64.

    Raises:
        ValueError: If the levels are not increasing and finite.
    """
    names = ("dequantisation", *(f"probe {p}" for p in range(num_probes)))
    draws = [per_example_noise(name, seed, indices, x0.shape[1:], x0.device) for name in names]
    spread = x0 + GREY * (torch.special.ndtr(draws[0]) - 0.5)
    probes = 1 - 2 * torch.stack(draws[1:]).lt(0).to(x0.dtype)
    density = ode_log_density(denoiser, spread, condition, levels, probes) / x0[0].numel()
    return -(density + math.log(GREY)) / math.log(2)


@torch.no_grad()
def ode_log_density(
    denoiser: Denoiser, x0: Tensor, condition: Tensor, levels: Tensor, probes: Tensor
) -> Tensor:
    """Log-density of data under the probability flow (Song et al. 2021, arXiv:2011.13456).

    The flow ``dy / d sigma = (y - x0_hat) / sigma`` of ``y = x_t / alpha`` and
    ``sigma = exp(-logsnr / 2)`` is followed from the cleanest level to the noisiest, where x_t
    should be N(0, 1), by Heun's method. Its divergence is ``d`` less the trace of
    ``J = d x0_hat / d y``, over sigma; the first part is integrated exactly, the second over logsnr
    by the trapezoid rule, with the trace estimated as ``v^T J v`` (Hutchinson).

    It is the density at the cleanest level, where data is blurred by ``sigma``.

    Args:
        denoiser: The model; autograd must be able to differentiate it by its input.
        x0: Clean data, shape ``(B, ...)``.
        condition: Class of each example, shape ``(B,)``.
        levels: Increasing, finite logsnr, shape ``(K,)``, ``K >= 2``.
        probes: The vectors ``v``, each entry -1 or 1 at random, shape ``(P, B, ...)``. Any whose
            ``v v^T`` are the identity on average do; with ``sqrt(d)`` times each unit vector the
            trace is exact.

    Returns:
        Nats, sum over the dimensions, shape ``(B,)``, float64.

    Raises:
        ValueError: If the levels are not increasing and finite.
    """
    falling, batch, d = _increasing(levels).to(x0.device).flip(0), len(x0), x0[0].numel()
    x_t = per_example(alpha_sigma(falling[:1])[0], x0) * x0
    traces = []
    for k, level in enumerate(falling):
        now, trace = _visit_with_trace(denoiser, x_t, level.expand(batch), condition, probes)
        traces.append(trace)
        if k + 1 < len(falling):
            logsnr = falling[k + 1].expand(batch)
            ahead = visit(denoiser, ddim_step(now, now, logsnr, x_t), logsnr, condition)
            x_t = heun_step(ahead, now, logsnr, x_t)
    at_end = -(x_t.double().square().flatten(1).sum(1) + d * math.log(2 * math.pi)) / 2
    # From the density of x_t to that of y, and the part of the divergence that is d / sigma.
    scale = d * (falling[0] - softplus(falling[-1]))
    density: Tensor = at_end + (scale + torch.trapezoid(torch.stack(traces), falling, dim=0)) / 2
    return density


def _step_kl(x0: Tensor, found: Estimate, logsnr_t: Tensor, logsnr_s: Tensor) -> Tensor:
    """``KL(q(x_s | x_t, x0) || p(x_s | x_t))`` of an ancestral step, nats per dimension, ``(B,)``.

    With ``gain = snr_s - snr_t``, which is ``c0^2 / beta_tilde``, and the variance
    ``beta_tilde + c0^2 x0_var``. Without the latter it is ``gain / 2`` times the squared error
    (Kingma et al. 2021, arXiv:2107.00630).
    """
    gain = per_example(logsnr_t.exp() * torch.expm1(logsnr_s - logsnr_t), x0.double())
    squared = (x0.double() - found.x0).square()
    variance = 0.0 if found.x0_var is None else found.x0_var.double()
    spread = gain * variance
    kl = torch.log1p(spread) + gain * (squared - variance) / (1 + spread)
    return kl.flatten(1).mean(1) / 2


def _visit_with_trace(
    denoiser: Denoiser, x_t: Tensor, logsnr: Tensor, condition: Tensor, probes: Tensor
) -> tuple[Visit, Tensor]:
    """A visit, and the trace of ``d x0_hat / d (x_t / alpha)`` of each example, float64."""
    with torch.enable_grad():  # callers and their callers forbid it
        x_t = x_t.detach().requires_grad_()
        x0_hat = denoiser(x_t, logsnr, condition).x0
        products = [
            torch.autograd.grad(x0_hat, x_t, probe, retain_graph=True)[0] * probe
            for probe in probes
        ]
    trace = torch.stack(products).double().flatten(2).sum(2).mean(0)
    return Visit(x_t.detach(), logsnr, x0_hat.detach()), alpha_sigma(logsnr)[0] * trace


def _increasing(levels: Tensor) -> Tensor:
    if not bool(torch.isfinite(levels).all() and (levels.diff() > 0).all()):
        raise ValueError("levels must be finite and increase, the noisiest first")
    return levels.double()
