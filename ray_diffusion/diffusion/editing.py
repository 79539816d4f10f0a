"""Walks that start from more than noise: from an image, around a hole, between two seeds.

An edit is ``sampling.sample`` with something to work on: every model, solver and grid will do, and
image ``i`` depends on its own inputs and ``(seed, indices[i])`` alone.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ray_diffusion.diffusion.denoiser import Denoiser
from ray_diffusion.diffusion.gaussian import add_noise, alpha_sigma, per_example
from ray_diffusion.diffusion.random import per_example_noise
from ray_diffusion.diffusion.sampling import visit, walk
from ray_diffusion.diffusion.solvers import DEFAULTS, SOLVERS, Options, nowhere
from ray_diffusion.diffusion.variance import posterior


class Sampler(NamedTuple):
    """All that a walk needs but its start; the fields are the arguments of ``sampling.sample``.

    Attributes:
        denoiser: The model.
        condition: Class of each image, shape ``(B,)``; its device is where the work is done.
        levels: The noise levels to visit, shape ``(N + 1,)``; see ``grids.itinerary``.
        solver: A key of ``SOLVERS``.
        seed: The user's seed.
        indices: Index of each image.
        options: What the solver is told beyond its name.
    """

    denoiser: Denoiser
    condition: Tensor
    levels: Tensor
    solver: str
    seed: int
    indices: list[int]
    options: Options = DEFAULTS

    def noise(self, what: str, shape: tuple[int, ...]) -> Tensor:
        """Standard normal noise of each image, shape ``(B, *shape)``; see ``per_example_noise``."""
        return per_example_noise(what, self.seed, self.indices, shape, self.condition.device)

    def walk(self, x_t: Tensor, levels: Tensor) -> Tensor:
        """Clean data from data at ``levels[0]``; see ``sampling.walk``."""
        condition, indices = self.condition, self.indices
        return walk(
            self.denoiser, x_t, condition, levels, self.solver, self.options, self.seed, indices
        )

    def since(self, logsnr: float) -> Tensor:
        """The rest of the itinerary: a noise level, then all that are cleaner."""
        return torch.cat([self.levels.new_tensor([logsnr]), self.levels[self.levels > logsnr]])


def sdedit(sampler: Sampler, x0: Tensor, strength: float) -> Tensor:
    """Draw variations of images (SDEdit, Meng et al. 2022, arXiv:2108.01073).

    Noise is added, the same that ``sample`` starts from, and the model takes it away again. Mixes
    ``(1 - share) x0 + share x0'`` with one index for all lead from ``x0`` to ``x0'``, as in section
    4.3 of Ho et al. 2020 (arXiv:2006.11239).

    Args:
        sampler: How to draw.
        x0: The images, shape ``(B, ...)``.
        strength: Share of the noise levels that is walked, in (0, 1]; 1 starts at the noisiest,
            where next to nothing is left of the images.

    Returns:
        Clean data, shape of ``x0``.

    Raises:
        ValueError: If the strength is out of range.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength must be above 0 and at most 1, got {strength}")
    distinct = sampler.levels[:-1][sampler.levels.diff() > 0]
    start = float(distinct[-max(1, round(strength * len(distinct)))])
    x0 = x0.to(sampler.condition.device)
    x_t = add_noise(x0, sampler.noise("x_T", x0.shape[1:]), _everywhere(start, x0))
    return sampler.walk(x_t, sampler.since(start))


def restore(sampler: Sampler, noisy: Tensor, noise_sigma: float) -> Tensor:
    """Take known noise off images: they already stand on the way from noise to clean data.

    ``y = x0 + noise_sigma * noise`` is ``x_t / alpha`` at ``logsnr = -2 log(noise_sigma)``. A
    solver that draws noise, such as ``ddpm``, draws from ``p(x0 | y)``; any other has one answer,
    where the probability flow leads.

    Args:
        sampler: How to draw.
        noisy: The images, not clipped, shape ``(B, ...)``.
        noise_sigma: Standard deviation of their noise, in units of x0, above 0.

    Returns:
        Clean data, shape of ``noisy``.

    Raises:
        ValueError: If the standard deviation is not above 0.
    """
    if not noise_sigma > 0:
        raise ValueError(f"noise_sigma must be above 0, got {noise_sigma}")
    x_t = noisy.to(sampler.condition.device) / math.sqrt(1 + noise_sigma**2)
    return sampler.walk(x_t, sampler.since(-2 * math.log(noise_sigma)))


@torch.no_grad()
def inpaint(sampler: Sampler, x0: Tensor, keep: Tensor, resamplings: int) -> Tensor:
    """Fill holes in images (RePaint, Lugmayr et al. 2022, arXiv:2201.09865, algorithm 1).

    Before each look of the network the known pixels, noised to its level, replace the drawn ones.
    After one pass a hole knows too little of its surroundings; each step made again, from where the
    forward process leads back to, brings it closer to the conditional distribution. With the
    variance ``beta_tilde`` its spread stays too small in few steps, with ``analytic`` it does not.

    What a solver remembers belongs to pixels since replaced: only its corrections within a level
    are told, and ``dpmpp_2m`` takes the steps of ``ddim``.

    Args:
        sampler: How to draw.
        x0: The images, shape ``(B, C, H, W)``.
        keep: Which pixels are known, bool, broadcastable to ``x0``, such as ``(B, 1, H, W)``.
        resamplings: How often each step is made, at least 1, which is plain blending; the network
            is evaluated as many times as often.

    Returns:
        Clean data, shape of ``x0`` and equal to it where ``keep``.

    Raises:
        ValueError: If there are no resamplings.
    """
    if resamplings < 1:
        raise ValueError(f"resamplings must be at least 1, got {resamplings}")
    shape, step = x0.shape[1:], SOLVERS[sampler.solver].step
    x0, keep = x0.to(sampler.condition.device), keep.to(sampler.condition.device)
    x_t = sampler.noise("x_T", shape)
    before = nowhere(x_t)
    for n, (t, s, again) in enumerate(_steps(sampler.levels.tolist(), resamplings)):
        logsnr_t, logsnr_s = _everywhere(t, x0), _everywhere(s, x0)
        if again:
            x_t = renoise(x_t, logsnr_s, logsnr_t, sampler.noise(f"renoise {n}", shape))
        known = add_noise(x0, sampler.noise(f"known {n}", shape), logsnr_t)
        x_t = torch.where(keep, known, x_t)
        now = visit(sampler.denoiser, x_t, logsnr_t, sampler.condition)
        memory, noise = before if t == s else nowhere(x_t), sampler.noise(f"step {n}", shape)
        x_t, before = step(now, memory, logsnr_s, noise, sampler.options), now
    return torch.where(keep, x0, x_t)


def _steps(levels: list[float], resamplings: int) -> Iterator[tuple[float, float, bool]]:
    """From where to where each step goes, and whether it has just been made."""
    for t, s in pairwise(levels):
        for again in range(resamplings if t < s < math.inf else 1):
            yield t, s, again > 0


def _everywhere(logsnr: float, x: Tensor) -> Tensor:
    return torch.full((len(x),), logsnr, dtype=torch.float64, device=x.device)


def renoise(x_s: Tensor, logsnr_s: Tensor, logsnr_t: Tensor, noise: Tensor) -> Tensor:
    """Go back from a noise level to a noisier one by the forward process, ``q(x_t | x_s)``.

    Args:
        x_s: Data at ``logsnr_s``, shape ``(B, ...)``.
        logsnr_s: Noise level of each example, shape ``(B,)``.
        logsnr_t: A noisier one, shape ``(B,)``.
        noise: Standard normal noise, shape of ``x_s``.

    Returns:
        Data at ``logsnr_t``, shape of ``x_s``.
    """
    (alpha_s, _), (alpha_t, _) = alpha_sigma(logsnr_s), alpha_sigma(logsnr_t)
    added = posterior(logsnr_t, logsnr_s).beta.sqrt()
    return per_example(alpha_t / alpha_s, x_s) * x_s + per_example(added, x_s) * noise


def interpolate(sampler: Sampler, shape: tuple[int, ...], other_seed: int, share: Tensor) -> Tensor:
    """Draw images between those of two seeds (Song et al. 2020, arXiv:2010.02502).

    Args:
        sampler: How to draw; its seed is one end. A solver that draws noise draws that of this seed
            everywhere.
        shape: Shape of one image, ``(C, H, W)``.
        other_seed: The other end.
        share: How far each image has gone to the other end, in [0, 1], shape ``(B,)``.

    Returns:
        Clean data, shape ``(B, C, H, W)``.
    """
    here, there = (end.noise("x_T", shape) for end in (sampler, sampler._replace(seed=other_seed)))
    return sampler.walk(slerp(here, there, share.to(here.device)), sampler.levels)


def slerp(noise: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """Noise on the way from one draw to another.

    Independent draws stand at right angles but for chance, and weights whose squares add up to 1
    keep their mix standard normal all along the quarter circle.

    Args:
        noise: Standard normal noise, shape ``(B, ...)``.
        other: The same, independent of it.
        share: How far each example has gone: 0 is ``noise``, 1 is ``other``, shape ``(B,)``.

    Returns:
        Standard normal noise, shape ``(B, ...)``.
    """
    # Two sines: the cosine of a right angle is not 0, and the ends are to be exact.
    here, there = (torch.sin(part.double() * math.pi / 2) for part in (1 - share, share))
    return per_example(here, noise) * noise + per_example(there, other) * other
