"""What is looked at every now and then: the loss on held-out images, and pictures."""

import torch
from torch import Tensor, nn

from ray_diffusion.config import Config
from ray_diffusion.data.reader import Dataset
from ray_diffusion.diffusion.objective import denoising_loss
from ray_diffusion.diffusion.random import generator, per_example_noise
from ray_diffusion.models.draw import draw
from ray_diffusion.models.pixels import contact_sheet, encode
from ray_diffusion.training.collective import rank_and_world, sum_over_workers
from ray_diffusion.training.state import TrainState

BATCH = 256  # examples per forward pass
PREVIEW_ROWS = 4
PREVIEW_COLUMNS = 10


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
    rank, world = rank_and_world()
    device, null = table.device, config.model.num_classes
    total = torch.zeros(2, dtype=torch.float64, device=device)
    for start in range(rank * BATCH, len(dataset), world * BATCH):
        batch = dataset.read(start, start + BATCH)
        x0, indices = encode(batch.images.to(device)), batch.positions.tolist()
        noise = per_example_noise("validation noise", 0, indices, x0.shape[1:], device)
        timesteps = [
            int(torch.randint(len(table), (), generator=generator("validation timestep", i)))
            for i in indices
        ]
        labels = batch.labels.to(device) if null else torch.zeros(len(x0), dtype=torch.int64)
        losses = denoising_loss(
            average,
            x0,
            labels.to(device),
            table[timesteps],
            noise,
            config.diffusion.prediction_type,
        )
        total += torch.stack([losses.double().sum(), losses.new_tensor(len(losses)).double()])
    sum_over_workers([total])
    return float(total[0] / total[1])


def previews(state: TrainState, config: Config) -> dict[str, Tensor]:
    """Pictures of what the weights draw now; the same seed each time, a class per column.

    Args:
        state: The state of training.
        config: The run's configuration.

    Returns:
        ``ema`` and ``raw``: a contact sheet of the averaged and of the trained weights.
    """
    columns = min(config.model.num_classes or PREVIEW_COLUMNS, PREVIEW_COLUMNS)
    classes = torch.arange(columns) if config.model.num_classes else torch.zeros(columns).long()
    labels = classes.repeat(PREVIEW_ROWS)
    sheets = {}
    for name, network in {"ema": state.average, "raw": state.network}.items():
        sheets[name] = contact_sheet(draw(network, config, labels, seed=0), columns)
    return sheets
