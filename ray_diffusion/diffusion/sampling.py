"""From noise to images: a solver walks along noise levels."""

import torch
from torch import Tensor

from ray_diffusion.diffusion.denoiser import Denoiser
from ray_diffusion.diffusion.random import per_example_noise
from ray_diffusion.diffusion.solvers import DEFAULTS, SOLVERS, Options, Visit, ddim_step, nowhere


def visit(denoiser: Denoiser, x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Visit:
    """Evaluate the model at a point; the one call of the network in a step."""
    return Visit(x_t, logsnr, *denoiser(x_t, logsnr, condition))


def draws_noise(solver: str, options: Options) -> bool:
    """Whether a solver with these options uses the noise it is given."""
    return SOLVERS[solver].stochastic or (SOLVERS[solver].step is ddim_step and options.eta > 0)


@torch.no_grad()
def walk(
    denoiser: Denoiser,
    x_t: Tensor,
    condition: Tensor,
    levels: Tensor,
    solver: str,
    options: Options,
    seed: int,
    indices: list[int],
) -> Tensor:
    """Carry noisy data along noise levels.

    Args:
        denoiser: The model.
        x_t: Data at ``levels[0]``, shape ``(B, ...)``; its device is where the work is done.
        condition: Class of each image, shape ``(B,)``.
        levels: logsnr that never falls, one per network evaluation and where the last step ends,
            shape ``(N + 1,)``; see ``grids.itinerary``.
        solver: A key of ``SOLVERS``.
        options: What the solver is told beyond its name.
        seed: The user's seed.
        indices: Index of each image: its noise depends on ``(seed, index)`` alone.

    Returns:
        Data at ``levels[-1]``, shape of ``x_t``.
    """
    step, noisy = SOLVERS[solver].step, draws_noise(solver, options)
    levels, before, batch = levels.to(x_t.device), nowhere(x_t), len(x_t)
    for k in range(len(levels) - 1):
        now = visit(denoiser, x_t, levels[k].expand(batch), condition)
        noise = (
            per_example_noise(f"step {k}", seed, indices, x_t.shape[1:], x_t.device)
            if noisy
            else x_t
        )
        x_t = step(now, before, levels[k + 1].expand(batch), noise, options)
        before = now
    return x_t


def sample(
    denoiser: Denoiser,
    condition: Tensor,
    shape: tuple[int, ...],
    levels: Tensor,
    solver: str,
    seed: int,
    indices: list[int],
    options: Options = DEFAULTS,
) -> Tensor:
    """Draw images.

    Image ``i`` depends on ``(seed, indices[i])``, its condition and the sampler, not on the batch
    it is drawn in (up to the rounding of the network, whose kernels may block batches of
    different sizes differently).

    Args:
        denoiser: The model.
        condition: Class of each image, shape ``(B,)``; its device is where the work is done.
        shape: Shape of one image, ``(C, H, W)``.
        levels: Noise levels to visit; see ``walk``.
        solver: A key of ``SOLVERS``.
        seed: The user's seed.
        indices: Index of each image.
        options: What the solver is told beyond its name.

    Returns:
        Clean data, shape ``(B, C, H, W)``, float32.
    """
    x_T = per_example_noise("x_T", seed, indices, shape, condition.device)
    return walk(denoiser, x_T, condition, levels, solver, options, seed, indices)
