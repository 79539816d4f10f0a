"""Where on a schedule a sampler stands: ``(table, count) -> count levels``, increasing.

To add a grid, write its function and add it to ``GRIDS``.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ray_diffusion.diffusion.schedule import from_sigmas, karras_sigmas

# Grids that do not follow the timesteps stay within these. Below, x_t is noise: DDPM's own
# schedule ends at -10.1. Above, it is clean to less than a gray level of 255.
NOISIEST, CLEANEST = -10.0, 12.0
NOISE_KEPT = 0.9  # share of the noise that each step of the geometric grid leaves


def trailing(table: Tensor, count: int) -> Tensor:
    """Even in timesteps, the first of them T-1 (Lin et al. 2023, arXiv:2305.08891, section 3.3).

    Args:
        table: The schedule's logsnr of each timestep, shape ``(T,)``.
        count: How many levels, 1..T.

    Returns:
        Increasing logsnr, shape ``(count,)``, as of every grid below.

    Raises:
        ValueError: If there are not that many timesteps.
    """
    T = _timesteps(table, count)
    return table[[round(T - k * T / count) - 1 for k in range(count)]]


def leading(table: Tensor, count: int) -> Tensor:
    """Even in timesteps, the last of them 0, as DDIM's code has it; x_T is not the noisiest."""
    stride = _timesteps(table, count) // count
    return table[[k * stride for k in reversed(range(count))]]


def linspace(table: Tensor, count: int) -> Tensor:
    """Even in timesteps, from T-1 to 0."""
    T = _timesteps(table, count)
    return table[torch.linspace(T - 1, 0, count, dtype=torch.float64).round().long()]


def uniform_logsnr(table: Tensor, count: int) -> Tensor:
    """Even in logsnr."""
    noisiest, cleanest = ends(table)
    return torch.linspace(noisiest, cleanest, count, dtype=torch.float64)


def karras(table: Tensor, count: int) -> Tensor:
    """Even in ``(sigma / alpha)^(1/7)`` (Karras et al. 2022, arXiv:2206.00364, equation 5)."""
    noisiest, cleanest = ends(table)
    return from_sigmas(karras_sigmas(count, math.exp(-noisiest / 2), math.exp(-cleanest / 2)))


def geometric(table: Tensor, count: int) -> Tensor:
    """From the noisiest level on, 0.9 of the noise is left by each step, however many there are.

    With ``ddim`` this is the loop that subtracts all predicted noise and adds 0.9 of it back.
    """
    noisiest, _ = ends(table)
    return noisiest - 2 * math.log(NOISE_KEPT) * torch.arange(count, dtype=torch.float64)


GRIDS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "trailing": trailing,
    "leading": leading,
    "linspace": linspace,
    "uniform_logsnr": uniform_logsnr,
    "karras": karras,
    "geometric": geometric,
}


def ends(table: Tensor) -> tuple[float, float]:
    """The noisiest and the cleanest level of a schedule that are worth a visit."""
    return max(float(table[-1]), NOISIEST), min(float(table[0]), CLEANEST)


def itinerary(grid: str, table: Tensor, num_inference_steps: int, visits: int = 1) -> Tensor:
    """The noise level of every network evaluation, and clean data after the last.

    Args:
        grid: A key of ``GRIDS``.
        table: The schedule's logsnr of each timestep, shape ``(T,)``.
        num_inference_steps: Network evaluations per image, at least 1.
        visits: How often the solver visits each level after the first.

    Returns:
        logsnr that never falls, shape ``(num_inference_steps + 1,)``, the last ``+inf``.

    Raises:
        ValueError: If the grid consists of timesteps and there are too few.
    """
    count = 1 + math.ceil((num_inference_steps - 1) / visits)
    if visits > 1:  # corrections work on x_t / alpha, which explodes at levels of noise alone
        table = table[: max(count, int((table >= NOISIEST).sum()))]
    levels = GRIDS[grid](table, count)
    every = torch.cat([levels[:1], levels[1:].repeat_interleave(visits)])[:num_inference_steps]
    return torch.cat([every, torch.tensor([math.inf], dtype=table.dtype, device=every.device)])


def _timesteps(table: Tensor, count: int) -> int:
    if not 1 <= count <= len(table):
        raise ValueError(f"the grid must have 1..{len(table)} timesteps, got {count}")
    return len(table)
