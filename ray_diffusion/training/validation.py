"""What a diffusion model is asked about held-out data: its loss, and its error at fixed levels."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ray_diffusion.config import Config
from ray_diffusion.data.reader import Batch, Dataset
from ray_diffusion.diffusion.levels import levels_at
from ray_diffusion.diffusion.objective import Objective, denoising_loss
from ray_diffusion.diffusion.profile import SCORE_VERSION, eps_error
from ray_diffusion.diffusion.random import generator, per_example_noise
from ray_diffusion.models.codecs.space import Space
from ray_diffusion.models.draw import denoiser_of
from ray_diffusion.training.collective import rank_and_world, sum_over_workers

BATCH = 256  # examples per forward pass
MOST_PROFILED = 1024  # images; more change the score by less than two seeds of training do


def objective_of(config: Config) -> Objective:
    """What a diffusion model minimises."""
    diffusion = config.diffusion
    return Objective(
        diffusion.prediction_type,
        diffusion.loss,
        diffusion.weighting,
        diffusion.snr_gamma,
        diffusion.num_train_timesteps if diffusion.learn_variance else None,
    )


def shares(dataset: Dataset, positions: list[int]) -> Iterator[tuple[Batch, list[int]]]:
    """This worker's share of examples of a split, a batch and its positions at a time."""
    rank, world = rank_and_world()
    for start in range(rank * BATCH, len(positions), world * BATCH):
        chosen = positions[start : start + BATCH]
        yield dataset.at(chosen), chosen


def _clean(
    dataset: Dataset, positions: list[int], device: torch.device, classes: int, space: Space
) -> Iterator[tuple[Tensor, Tensor, Tensor, list[int]]]:
    """This worker's share of clean data, labels, weights and positions."""
    for batch, chosen in shares(dataset, positions):
        noise = partial(_noise, "validation latents", chosen, device)
        labels = batch.labels if classes else torch.zeros_like(batch.labels)
        weights = batch.weights.to(device).double()
        yield space.x0(batch.images.to(device), noise), labels.to(device), weights, chosen


def _noise(what: str, positions: list[int], device: torch.device, *shape: int) -> Tensor:
    return per_example_noise(what, 0, positions, shape, device)


@torch.no_grad()
def validation_loss(
    average: nn.Module, dataset: Dataset, config: Config, space: Space, table: Tensor
) -> float:
    """The training loss of the averaged weights on the validation split.

    Each example keeps its own timestep and noise from one validation to the next and whatever the
    number of workers, so the values of a run differ by the weights alone. They compare runs of
    one schedule only: another schedule asks easier or harder questions.

    Args:
        average: The averaged weights.
        dataset: The validation split.
        config: The run's configuration.
        space: What the network works on.
        table: The schedule's logsnr of each timestep, on the device, shape ``(T,)``.

    Returns:
        The mean loss per example, the same on every worker.
    """
    device, classes = table.device, config.model.num_classes or 0
    total = torch.zeros(2, dtype=torch.float64, device=device)
    everything = dataset.spread(len(dataset))
    for x0, labels, weights, positions in _clean(dataset, everything, device, classes, space):
        noise = _noise("validation noise", positions, device, *x0.shape[1:])
        timesteps = [
            int(torch.randint(len(table), (), generator=generator("validation timestep", i)))
            for i in positions
        ]
        levels = levels_at(
            config.diffusion.timestep_sampling, table, torch.tensor(timesteps, device=device)
        )
        losses = denoising_loss(average, x0, labels, levels, noise, objective_of(config))
        total += torch.stack([(weights * losses).sum(), weights.sum()])
    sum_over_workers([total])
    return float(total[0] / total[1])


@torch.no_grad()
def errors_at(
    levels: Sequence[int],
    average: nn.Module,
    dataset: Dataset,
    config: Config,
    space: Space,
    hidden: bool,
) -> Tensor:
    """The error of the averaged weights at fixed noise levels; see ``diffusion.profile``.

    Images and noise depend on the dataset alone, so that runs of any configuration are asked the
    same questions.

    Args:
        levels: The logsnr of each level.
        average: The averaged weights.
        dataset: The validation split; at most 1024 of its images, evenly spread, are used.
        config: The run's configuration.
        space: What the network works on.
        hidden: Whether the network is not told the classes.

    Returns:
        Mean errors, shape ``(len(levels),)``, float64, the same on every worker.
    """
    device, classes = next(average.parameters()).device, config.model.num_classes or 0
    model, chosen = denoiser_of(average, config), dataset.spread(MOST_PROFILED)
    total = torch.zeros(1 + len(levels), dtype=torch.float64, device=device)
    for x0, labels, weights, positions in _clean(dataset, chosen, device, classes, space):
        condition = torch.full_like(labels, classes) if hidden else labels
        for k, level in enumerate(levels):
            noise = _noise(f"{SCORE_VERSION} {level}", positions, device, *x0.shape[1:])
            logsnr = torch.full((len(x0),), float(level), dtype=torch.float64, device=device)
            total[k] += (weights * eps_error(model, x0, condition, logsnr, noise)).sum()
        total[-1] += weights.sum()
    sum_over_workers([total])
    return total[:-1].cpu() / total[-1].cpu()
