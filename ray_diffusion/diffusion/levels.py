"""Which noise levels training draws.

A schedule is a table of levels; between two of them logsnr is interpolated. Families that know
timesteps alone draw whole positions in the table, those in continuous time any position.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ray_diffusion.diffusion.interpolation import interpolated
from ray_diffusion.diffusion.random import Draws

# Of log sigma: where Karras et al. 2022 (arXiv:2206.00364) found that learning pays.
LOG_SIGMA_MEAN, LOG_SIGMA_SD = -1.2, 1.2


class Levels(NamedTuple):
    """Noise levels drawn for a batch; entries have shape ``(B,)``, float64.

    Attributes:
        logsnr: The levels.
        cleaner: The level of the timestep before; infinity before the first.
        density: How often training draws each level, per unit of logsnr.
    """

    logsnr: Tensor
    cleaner: Tensor
    density: Tensor


class Draw(NamedTuple):
    """Some places of a global batch, and where their randomness comes from.

    Attributes:
        own: What each place draws for itself.
        shared: A generator in the same state for all places.
        total: Places of the global batch.
    """

    own: Draws
    shared: torch.Generator
    total: int


def _uniform(table: Tensor, continuous: bool, draw: Draw) -> Tensor:
    T, share = len(table), draw.own.uniform()
    return share * (T - 1) if continuous else (share * T).floor()


def _stratified(table: Tensor, continuous: bool, draw: Draw) -> Tensor:
    T, places = len(table), draw.own.places
    offset = torch.rand((), generator=draw.shared, device=table.device, dtype=torch.float64)
    own = torch.arange(places.start, places.stop, device=table.device, dtype=torch.float64)
    share = (offset + own / draw.total) % 1
    return share * (T - 1) if continuous else (share * T).floor().clamp(max=T - 1)


def _lognormal(table: Tensor, continuous: bool, draw: Draw) -> Tensor:
    # The quantile function of the normal distribution, at a uniform draw.
    normal = torch.special.ndtri(draw.own.uniform().clamp(1e-12, 1 - 1e-12))
    position = _position(table, -2 * (LOG_SIGMA_MEAN + LOG_SIGMA_SD * normal))
    return position if continuous else position.round()


def _position(table: Tensor, logsnr: Tensor) -> Tensor:
    """Where in the table a level lies; the nearest end for levels beyond it."""
    falling = torch.arange(len(table) - 1, -1, -1, dtype=torch.float64, device=table.device)
    return interpolated(logsnr, table.flip(0), falling)


def _at(table: Tensor, position: Tensor) -> Tensor:
    lower = position.floor().long().clamp(max=len(table) - 2)
    share = position - lower
    # Exactly the table's entries at whole positions: a weight of 0 or 1 rounds nothing.
    return (1 - share) * table[lower] + share * table[lower + 1]


def _uniform_density(table: Tensor, logsnr: Tensor, position: Tensor) -> Tensor:
    slope = -torch.gradient(table)[0]  # units of logsnr per timestep
    return 1 / (len(table) * _at(slope, position))


def _lognormal_density(table: Tensor, logsnr: Tensor, position: Tensor) -> Tensor:
    z = (logsnr / -2 - LOG_SIGMA_MEAN) / LOG_SIGMA_SD
    return torch.exp(-(z**2) / 2) / (2 * LOG_SIGMA_SD * math.sqrt(2 * math.pi))


class TimestepSampling(NamedTuple):
    """A distribution of training levels.

    Attributes:
        positions: ``(table, continuous, draw) -> positions in the table (count,)``.
        density: ``(table, logsnr, position) -> how often each level is drawn``, per unit of logsnr.
    """

    positions: Callable[[Tensor, bool, Draw], Tensor]
    density: Callable[[Tensor, Tensor, Tensor], Tensor]


TIMESTEP_SAMPLING: dict[str, TimestepSampling] = {
    # Each example's timestep alone (Ho et al. 2020, arXiv:2006.11239, algorithm 1).
    "uniform": TimestepSampling(_uniform, _uniform_density),
    # Evenly spread over the global batch from one random offset (Kingma et al. 2021,
    # arXiv:2107.00630): the same distribution, a loss of less variance.
    "stratified": TimestepSampling(_stratified, _uniform_density),
    # Around the levels that decide what an image shows (Karras et al. 2022, arXiv:2206.00364).
    "lognormal": TimestepSampling(_lognormal, _lognormal_density),
}


def levels_at(name: str, table: Tensor, position: Tensor) -> Levels:
    """The levels at some positions in the table, as a way of drawing them sees them.

    Args:
        name: A key of ``TIMESTEP_SAMPLING``.
        table: The schedule's logsnr, strictly decreasing, shape ``(T,)``, float64.
        position: In [0, T - 1]; whole numbers are timesteps, shape ``(B,)``.

    Returns:
        The levels.
    """
    position = position.to(table.device).double()
    logsnr = _at(table, position)
    cleaner = torch.where(position >= 1, _at(table, (position - 1).clamp(min=0)), torch.inf)
    return Levels(logsnr, cleaner, TIMESTEP_SAMPLING[name].density(table, logsnr, position))


def draw_levels(name: str, table: Tensor, continuous: bool, draw: Draw) -> Levels:
    """Draw the noise levels of a worker's part of a batch.

    Args:
        name: A key of ``TIMESTEP_SAMPLING``.
        table: The schedule's logsnr, strictly decreasing, shape ``(T,)``, float64.
        continuous: Whether levels between those of the table are drawn too.
        draw: Which part of the batch, drawn on the table's device.

    Returns:
        The levels.
    """
    return levels_at(name, table, TIMESTEP_SAMPLING[name].positions(table, continuous, draw))
