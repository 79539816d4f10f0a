"""From a network and a configuration to pixels: what previews and the pipeline share."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ray_diffusion.config import Config
from ray_diffusion.diffusion.denoiser import (
    Denoiser,
    clipped,
    denoiser,
    guided,
    without_x0_variance,
)
from ray_diffusion.diffusion.editing import Sampler
from ray_diffusion.diffusion.family import FAMILIES
from ray_diffusion.diffusion.grids import itinerary
from ray_diffusion.diffusion.objective import Network
from ray_diffusion.diffusion.profile import with_analytic_variance
from ray_diffusion.diffusion.sampling import sample
from ray_diffusion.diffusion.schedule import SCHEDULES, with_zero_terminal_snr
from ray_diffusion.diffusion.solvers import SOLVERS, Options
from ray_diffusion.errors import UsageError
from ray_diffusion.models.codecs.space import Space
from ray_diffusion.models.precision import PRECISIONS


def logsnr_table(config: Config) -> Tensor:
    """The noise level of each timestep of a run, shape ``(T,)``, float64."""
    diffusion = config.diffusion
    table = SCHEDULES[diffusion.beta_schedule](
        diffusion.num_train_timesteps,
        beta_start=diffusion.beta_start,
        beta_end=diffusion.beta_end,
        scale_betas=diffusion.scale_betas,
        sigma_min=diffusion.sigma_min,
        sigma_max=diffusion.sigma_max,
        betas=diffusion.betas,
    )
    return with_zero_terminal_snr(table) if diffusion.rescale_zero_terminal_snr else table


def denoiser_of(network: Network, config: Config) -> Denoiser:
    """Read a run's network as a denoiser, neither guided nor clipped."""
    diffusion = config.diffusion
    return denoiser(
        network, diffusion.prediction_type, logsnr_table(config), diffusion.learn_variance
    )


def model_of(
    network: Network, config: Config, scale: Tensor, profile: Tensor | None = None
) -> Denoiser:
    """The denoiser that the run's sampler walks with: guided, clipped, with its variance.

    Args:
        network: A trained network.
        config: The run's configuration.
        scale: Guidance scale of each image, shape ``(B,)``.
        profile: The model's error at ``PROFILE_LEVELS``, which ``sampler.variance=analytic`` needs.

    Returns:
        The denoiser.

    Raises:
        UsageError: If the profile is needed and not there.
    """
    sampler, null = config.sampler, config.model.num_classes
    assert null is not None
    model = denoiser_of(network, config)
    if sampler.variance == "analytic":
        if profile is None:
            raise UsageError(
                "sampler.variance: analytic needs the profile of a validation, and the model has "
                "seen none; choose a later checkpoint or another variance"
            )
        model = with_analytic_variance(model, profile)
    elif sampler.variance != "learned":
        model = without_x0_variance(model)
    model = guided(model, scale, null)
    of_pixels = config.data.codec is None
    return clipped(model) if sampler.clip_x0 or (sampler.clip_x0 is None and of_pixels) else model


def solver_options(config: Config) -> Options:
    """What the run's configuration tells its solver."""
    signal, sampler = FAMILIES[config.diffusion.family].signal, config.sampler
    return Options(sampler.eta, sampler.variance == "beta", signal)


def levels_of(config: Config) -> Tensor:
    """The noise levels that the run's sampler visits, shape ``(num_inference_steps + 1,)``."""
    sampler = config.sampler
    visits = SOLVERS[sampler.solver].visits
    return itinerary(sampler.grid, logsnr_table(config), sampler.num_inference_steps, visits)


def x0_shape(config: Config) -> tuple[int, int, int]:
    """``(C, H, W)`` of what a run's network sees: of images, or of their latents."""
    channels, side = config.model.image_channels, config.data.side
    assert channels is not None
    return channels, side, side


def draw(
    network: nn.Module,
    config: Config,
    space: Space,
    labels: Tensor,
    seed: int,
    indices: list[int] | None = None,
    profile: Tensor | None = None,
    edit: Callable[[Sampler], Tensor] | None = None,
) -> Tensor:
    """Draw images with the run's sampler.

    Args:
        network: A trained network; its device is where the work is done.
        config: The run's configuration.
        space: What the network works on.
        labels: Class of each image, ``num_classes`` for none, shape ``(B,)``.
        seed: Image ``i`` depends on ``(seed, indices[i])``.
        indices: Index of each image; 0, 1, 2 ... when None.
        profile: See ``model_of``.
        edit: What to draw in place of images from noise: a function of ``diffusion.editing`` that
            lacks nothing but its sampler.

    Returns:
        uint8, shape ``(B, C, H, W)``, on the CPU.
    """
    device = next(network.parameters()).device
    scale = torch.full((len(labels),), config.sampler.guidance_scale, device=device)
    sampler = Sampler(
        model_of(PRECISIONS[config.sampler.precision](network), config, scale, profile),
        labels.to(device),
        levels_of(config),
        config.sampler.solver,
        seed,
        list(range(len(labels))) if indices is None else indices,
        solver_options(config),
    )
    if edit is not None:
        return space.images(edit(sampler)).cpu()
    shape = x0_shape(config)
    x0 = sample(sampler.denoiser, sampler.condition, shape, *sampler[2:])
    return space.images(x0).cpu()
