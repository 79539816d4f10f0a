"""What is looked at every now and then: errors on held-out images, and pictures."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ray_diffusion.config import Config
from ray_diffusion.data.reader import Dataset
from ray_diffusion.diffusion.levels import levels_at
from ray_diffusion.diffusion.objective import denoising_loss
from ray_diffusion.diffusion.profile import (
    PROFILE_LEVELS,
    SCORE_LEVELS,
    SCORE_VERSION,
    eps_error,
    score,
    vlb_bpd,
)
from ray_diffusion.diffusion.random import generator, per_example_noise
from ray_diffusion.models.draw import denoiser_of, draw
from ray_diffusion.models.pixels import contact_sheet, encode
from ray_diffusion.training.collective import rank_and_world, sum_over_workers
from ray_diffusion.training.step import objective_of

BATCH = 256  # examples per forward pass
MOST_PROFILED = 1024  # images; more change the score by less than two seeds of training do
PREVIEW_ROWS = 4
PREVIEW_COLUMNS = 10


def _batches(
    dataset: Dataset, positions: list[int], device: torch.device, classes: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, list[int]]]:
    """This worker's share of images, labels, weights and positions."""
    rank, world = rank_and_world()
    for start in range(rank * BATCH, len(positions), world * BATCH):
        chosen = positions[start : start + BATCH]
        batch = dataset.at(chosen)
        labels = batch.labels if classes else torch.zeros_like(batch.labels)
        weights = batch.weights.to(device).double()
        yield encode(batch.images.to(device)), labels.to(device), weights, chosen


@torch.no_grad()
def validation_loss(average: nn.Module, dataset: Dataset, config: Config, table: Tensor) -> float:
    """The training loss of the averaged weights on the validation split.

    Each example keeps its own timestep and noise from one validation to the next and whatever the
    number of workers, so the values of a run differ by the weights alone. They compare runs of
    one schedule only: another schedule asks easier or harder questions.

    Args:
        average: The averaged weights.
        dataset: The validation split.
        config: The run's configuration.
        table: The schedule's logsnr of each timestep, on the device, shape ``(T,)``.

    Returns:
        The mean loss per example, the same on every worker.
    """
    device, classes = table.device, config.model.num_classes or 0
    total = torch.zeros(2, dtype=torch.float64, device=device)
    everything = dataset.spread(len(dataset))
    for x0, labels, weights, positions in _batches(dataset, everything, device, classes):
        noise = per_example_noise("validation noise", 0, positions, x0.shape[1:], device)
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
    levels: Sequence[int], average: nn.Module, dataset: Dataset, config: Config, hidden: bool
) -> Tensor:
    """The error of the averaged weights at fixed noise levels; see ``diffusion.profile``.

    Images and noise depend on the dataset alone, so that runs of any configuration are asked the
    same questions.

    Args:
        levels: The logsnr of each level.
        average: The averaged weights.
        dataset: The validation split; at most 1024 of its images, evenly spread, are used.
        config: The run's configuration.
        hidden: Whether the network is not told the classes.

    Returns:
        Mean errors, shape ``(len(levels),)``, float64, the same on every worker.
    """
    device, classes = next(average.parameters()).device, config.model.num_classes or 0
    model, chosen = denoiser_of(average, config), dataset.spread(MOST_PROFILED)
    total = torch.zeros(1 + len(levels), dtype=torch.float64, device=device)
    for x0, labels, weights, positions in _batches(dataset, chosen, device, classes):
        condition = torch.full_like(labels, classes) if hidden else labels
        for k, level in enumerate(levels):
            noise = per_example_noise(
                f"{SCORE_VERSION} {level}", 0, positions, x0.shape[1:], device
            )
            logsnr = torch.full((len(x0),), float(level), dtype=torch.float64, device=device)
            total[k] += (weights * eps_error(model, x0, condition, logsnr, noise)).sum()
        total[-1] += weights.sum()
    sum_over_workers([total])
    return total[:-1].cpu() / total[-1].cpu()


def validate(
    average: nn.Module, dataset: Dataset, config: Config, table: Tensor
) -> tuple[dict[str, float], Tensor]:
    """Measure the averaged weights.

    Args:
        average: A network that each worker may call on its own.
        dataset: The validation split.
        config: The run's configuration.
        table: The schedule's logsnr of each timestep, on the device, shape ``(T,)``.

    Returns:
        ``val/loss``; ``val/score``, by which runs compare; ``val/vlb_bpd``; and where classes may
        be hidden the score without them, ``val/score_uncond``. Then the error at each of
        ``PROFILE_LEVELS``.
    """
    profile = errors_at(PROFILE_LEVELS, average, dataset, config, hidden=False)
    found = {
        "val/loss": validation_loss(average, dataset, config, table),
        "val/score": score(profile),
        "val/vlb_bpd": vlb_bpd(profile),
    }
    if config.model.num_classes and config.model.class_dropout_prob:
        errors = errors_at(SCORE_LEVELS, average, dataset, config, hidden=True)
        found["val/score_uncond"] = float(errors.mean())
    return found, profile


def previews(
    networks: Mapping[str, nn.Module], config: Config, profile: Tensor
) -> dict[str, Tensor]:
    """Pictures of what networks draw now; the same seed each time, a class per column.

    Args:
        networks: By name.
        config: The run's configuration.
        profile: The error of the averaged weights at ``PROFILE_LEVELS``.

    Returns:
        A contact sheet of each.
    """
    columns = min(config.model.num_classes or PREVIEW_COLUMNS, PREVIEW_COLUMNS)
    classes = torch.arange(columns) if config.model.num_classes else torch.zeros(columns).long()
    labels = classes.repeat(PREVIEW_ROWS)
    sheets = {}
    for name, network in networks.items():
        training = network.training
        images = draw(network.eval(), config, labels, seed=0, profile=profile)
        network.train(training)
        sheets[name] = contact_sheet(images, columns)
    return sheets
