"""One optimizer step, the same to the bit however often the run was interrupted before it."""

from typing import NamedTuple

import torch
from torch import Tensor

from ray_diffusion.config import Config
from ray_diffusion.data.reader import Batch
from ray_diffusion.diffusion.family import FAMILIES
from ray_diffusion.diffusion.levels import Draw, draw_levels
from ray_diffusion.diffusion.objective import Objective, denoising_loss, drop_condition
from ray_diffusion.diffusion.random import generator
from ray_diffusion.models import ema
from ray_diffusion.models.dropout import dropout_of
from ray_diffusion.models.pixels import encode
from ray_diffusion.training.collective import rank_and_world, sum_over_workers
from ray_diffusion.training.lr import learning_rate
from ray_diffusion.training.state import TrainState


class StepResult(NamedTuple):
    """What a step tells; the same on every worker.

    Attributes:
        loss: Mean over the global batch, a scalar on the device.
        grad_norm: Norm of the gradient before clipping, a scalar on the device.
        lr: The learning rate of the step.
        stop_votes: How many workers asked to stop, a scalar on the device.
        bad_examples: How many of the global batch could not be used, a scalar on the device.
    """

    loss: Tensor
    grad_norm: Tensor
    lr: float
    stop_votes: Tensor
    bad_examples: Tensor


def autocast(config: Config, device: torch.device) -> torch.autocast:
    """The context in which networks run: bfloat16 where the configuration says so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.training.precision == "bf16")


def objective_of(config: Config) -> Objective:
    """What a run minimises."""
    diffusion = config.diffusion
    return Objective(
        diffusion.prediction_type,
        diffusion.loss,
        diffusion.weighting,
        diffusion.snr_gamma,
        diffusion.num_train_timesteps if diffusion.learn_variance else None,
    )


def _losses(state: TrainState, batch: Batch, config: Config, table: Tensor) -> Tensor:
    """The loss of each example; every draw is named by the seed, the images seen and the rank."""
    device, (rank, _) = table.device, rank_and_world()
    name = config.run.seed, state.images_seen
    draw = generator("step", *name, rank, device=device)
    x0 = encode(batch.images.to(device))
    noise = torch.randn(x0.shape, generator=draw, device=device)
    levels = draw_levels(
        config.diffusion.timestep_sampling,
        table,
        FAMILIES[config.diffusion.family].continuous,
        Draw(
            places=torch.from_numpy(batch.positions - state.images_seen),
            total=config.data.global_batch_size,
            own=draw,
            shared=generator("step of all", *name, device=device),
        ),
    )
    null, probability = config.model.num_classes, config.model.class_dropout_prob
    assert null is not None
    labels = batch.labels.to(device) if null else torch.zeros(len(x0), dtype=torch.int64).to(device)
    condition = drop_condition(labels, null, probability, draw)

    with autocast(config, device), dropout_of("dropout", *name, rank, device=device):
        return denoising_loss(state.network, x0, condition, levels, noise, objective_of(config))


def train_step(
    state: TrainState, batch: Batch, config: Config, table: Tensor, stop: bool
) -> StepResult:
    """Train on one batch.

    Each example's loss is divided by the *global* batch size and everything is summed over the
    workers, which is exact also where workers hold slices of unequal size. The loss and the wish
    to stop travel with the gradients: one collective a step, and all workers learn the same.

    Args:
        state: Changed in place.
        batch: This worker's slice of the global batch.
        config: The run's configuration.
        table: The schedule's logsnr of each timestep, on the device, shape ``(T,)``.
        stop: Whether this worker was asked to stop.

    Returns:
        The result of the step.
    """
    device = table.device
    losses = _losses(state, batch, config, table) * batch.weights.to(device)
    loss = losses.sum() / config.data.global_batch_size
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]

    parameters = [p for p in state.network.parameters() if p.grad is not None]
    told = torch.tensor([float(stop), float(batch.bad)], device=device)
    facts = torch.cat([loss.detach()[None], told])
    sum_over_workers([p.grad for p in parameters if p.grad is not None] + [facts])
    grad_norm = torch.nn.utils.clip_grad_norm_(parameters, config.optim.grad_clip)

    optim, total = config.optim, config.training.total_images
    lr = learning_rate(state.images_seen, optim.lr, optim.lr_schedule, optim.warmup_images, total)
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    state.optimizer.step()
    decay = ema.decay_at(state.steps, config.ema.decay, config.ema.warmup_steps)
    ema.update(state.average, state.network, decay)
    state.steps += 1
    state.images_seen += config.data.global_batch_size
    return StepResult(facts[0], grad_norm, lr, facts[1], facts[2])
