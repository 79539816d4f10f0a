"""From noise to images: a solver walks a grid of noise levels."""

import math

import torch
from torch import Tensor

from ray_diffusion.diffusion.denoiser import Denoiser
from ray_diffusion.diffusion.random import per_example_noise
from ray_diffusion.diffusion.solvers import SOLVERS


def trailing_grid(table: Tensor, num_inference_steps: int) -> Tensor:
    """Noise levels evenly spaced in timesteps, from the noisiest down to clean data.

    The first level is always T-1, the level of pure noise ("trailing" spacing; Lin et al. 2023,
    arXiv:2305.08891, section 3.3).

    Args:
        table: The schedule's logsnr of each timestep, shape ``(T,)``.
        num_inference_steps: Network evaluations per image, 1..T.

    Returns:
        Increasing logsnr, shape ``(num_inference_steps + 1,)``, the last ``+inf``.

    Raises:
        ValueError: If there are not that many timesteps.
    """
    T = len(table)
    if not 1 <= num_inference_steps <= T:
        raise ValueError(f"num_inference_steps must be 1..{T}, got {num_inference_steps}")
    stride = T / num_inference_steps
    timesteps = [round(T - k * stride) - 1 for k in range(num_inference_steps)]
    return torch.cat([table[timesteps], torch.tensor([math.inf], dtype=table.dtype)])


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    condition: Tensor,
    shape: tuple[int, ...],
    grid: Tensor,
    solver: str,
    seed: int,
    indices: list[int],
) -> Tensor:
    """Draw images.

    Image ``i`` depends on ``(seed, indices[i])``, its condition and the sampler, not on the batch
    it is drawn in (up to the rounding of the network, whose kernels may block batches of
    different sizes differently).

    Args:
        denoiser: The model.
        condition: Class of each image, shape ``(B,)``; its device is where the work is done.
        shape: Shape of one image, ``(C, H, W)``.
        grid: Noise levels to visit, increasing, the last ``+inf``.
        solver: A key of ``SOLVERS``.
        seed: The user's seed.
        indices: Index of each image.

    Returns:
        Clean data, shape ``(B, C, H, W)``, float32.
    """
    step, stochastic = SOLVERS[solver]
    device, batch = condition.device, len(indices)
    x = per_example_noise("x_T", seed, indices, shape, device)
    grid = grid.to(device)
    for k in range(len(grid) - 1):
        logsnr_t, logsnr_s = grid[k].expand(batch), grid[k + 1].expand(batch)
        x0 = denoiser(x, logsnr_t, condition)
        noise = per_example_noise(f"step {k}", seed, indices, shape, device) if stochastic else x
        x = step(x, x0, logsnr_t, logsnr_s, noise)
    return x
