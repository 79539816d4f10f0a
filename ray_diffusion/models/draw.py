"""From a network and a configuration to pixels: what previews and the pipeline share."""

import torch
from torch import Tensor, nn

from ray_diffusion.config import Config
from ray_diffusion.diffusion.denoiser import clipped, denoiser, guided
from ray_diffusion.diffusion.sampling import sample, trailing_grid
from ray_diffusion.diffusion.schedule import table
from ray_diffusion.models.pixels import decode


def logsnr_table(config: Config) -> Tensor:
    """The noise level of each timestep of a run, shape ``(T,)``, float64."""
    diffusion = config.diffusion
    return table(
        diffusion.beta_schedule,
        diffusion.num_train_timesteps,
        beta_start=diffusion.beta_start,
        beta_end=diffusion.beta_end,
    )


def draw(
    network: nn.Module,
    config: Config,
    labels: Tensor,
    seed: int,
    indices: list[int] | None = None,
) -> Tensor:
    """Draw images with the run's sampler.

    Args:
        network: A trained network; its device is where the work is done.
        config: The run's configuration.
        labels: Class of each image, ``num_classes`` for none, shape ``(B,)``.
        seed: Image ``i`` depends on ``(seed, indices[i])``.
        indices: Index of each image; 0, 1, 2 ... when None.

    Returns:
        uint8, shape ``(B, C, H, W)``, on the CPU.
    """
    model, sampler = config.model, config.sampler
    assert model.num_classes is not None
    assert model.image_channels is not None
    levels = logsnr_table(config)
    span = (float(levels[-1]), float(levels[0]))
    device = next(network.parameters()).device
    scale = torch.full((len(labels),), sampler.guidance_scale, device=device)
    x0 = guided(denoiser(network, config.diffusion.prediction_type, span), scale, model.num_classes)
    images = sample(
        clipped(x0) if sampler.clip_x0 else x0,
        labels.to(device),
        (model.image_channels, config.data.image_size, config.data.image_size),
        trailing_grid(levels, sampler.num_inference_steps),
        sampler.solver,
        seed,
        list(range(len(labels))) if indices is None else indices,
    )
    return decode(images).cpu()
