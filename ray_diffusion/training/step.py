"""One optimizer step, the same to the bit however often the run was interrupted before it."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.profiler import record_function

from ray_diffusion.config import Config
from ray_diffusion.data.order import part
from ray_diffusion.data.reader import Batch
from ray_diffusion.diffusion.family import FAMILIES
from ray_diffusion.diffusion.levels import Draw, draw_levels
from ray_diffusion.diffusion.objective import Objective, denoising_loss, drop_condition
from ray_diffusion.diffusion.random import Draws, generator
from ray_diffusion.models import ema
from ray_diffusion.models.dropout import dropout_of
from ray_diffusion.models.pixels import encode
from ray_diffusion.training.collective import plain, rank_and_world
from ray_diffusion.training.lr import learning_rate
from ray_diffusion.training.state import TrainState


class StepResult(NamedTuple):
    """What a step tells; the same on every worker, and still on the device.

    Attributes:
        loss: Mean over the global batch, a scalar.
        grad_norm: Norm of the gradient before clipping, a scalar.
        lr: The learning rate of the step.
        bad_examples: How many of the global batch could not be used, a scalar.
        votes: How many workers asked to stop, how many to save, and ``skipped``, shape ``(3,)``.
    """

    loss: Tensor
    grad_norm: Tensor
    lr: float
    bad_examples: Tensor
    votes: Tensor

    @property
    def skipped(self) -> Tensor:
        """1 if the loss or the gradient was not finite, so nothing was learned; else 0."""
        return self.votes[2]


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


def micro_batches(batch: int, rank: int, world: int, most: int | None) -> list[range]:
    """The places of a global batch that a worker holds, in the parts that it takes one by one.

    Args:
        batch: Examples in the global batch, at least ``world``.
        rank: Which worker.
        world: Number of workers.
        most: Places in a part, roughly at most: each worker has equally many parts, and none is
            empty, because workers that share out weights run their networks in step.

    Returns:
        The parts, in order; together they are ``part(batch, rank, world)``.
    """
    own, longest = part(batch, rank, world), -(-batch // world)
    count = 1 if most is None else min(-(-longest // most), batch // world)
    rows = [part(len(own), i, count) for i in range(count)]
    return [own[of_part.start : of_part.stop] for of_part in rows]


def _losses(
    state: TrainState, batch: Batch, places: range, config: Config, table: Tensor
) -> Tensor:
    """The loss of each example, whose draws are named by the seed, the images seen and its place.

    Args:
        state: The state of training.
        batch: The examples at these places.
        places: In the global batch.
        config: The run's configuration.
        table: The schedule's logsnr of each timestep, on the device.
    """
    device, name = table.device, (config.run.seed, state.images_seen)
    draws = Draws("step", *name, places=places, device=device)
    x0 = encode(batch.images.to(device, non_blocking=True))
    noise = draws.normal(*x0.shape[1:])
    levels = draw_levels(
        config.diffusion.timestep_sampling,
        table,
        FAMILIES[config.diffusion.family].continuous,
        Draw(
            draws,
            generator("step of all", *name, device=device),
            config.data.global_batch_size,
        ),
    )
    null, probability = config.model.num_classes, config.model.class_dropout_prob
    assert null is not None
    labels = batch.labels if null else torch.zeros_like(batch.labels)
    condition = drop_condition(
        labels.to(device, non_blocking=True), null, probability, draws.uniform()
    )
    dropout = dropout_of("dropout", *name, places.start, device=device)
    with record_function("forward"), autocast(config, device), dropout:
        losses = denoising_loss(state.network, x0, condition, levels, noise, objective_of(config))
    return losses * batch.weights.to(device, non_blocking=True)


def _gradients(state: TrainState, batch: Batch, config: Config, table: Tensor) -> Tensor:
    """Add up the gradients of this worker's examples; its part of the mean loss."""
    total = config.data.global_batch_size
    parts = micro_batches(total, *rank_and_world(), config.training.micro_batch_size)
    sum_of_losses = torch.zeros((), device=table.device)
    for i, places in enumerate(parts):
        rows = slice(places.start - parts[0].start, places.stop - parts[0].start)
        loss = _losses(state, batch.at(rows), places, config, table).sum() / total
        sum_of_losses += loss.detach()
        with record_function("backward"):
            state.gradients.backward(loss, last=i == len(parts) - 1)
    return sum_of_losses


def train_step(
    state: TrainState,
    batch: Batch,
    config: Config,
    table: Tensor,
    stop: bool = False,
    save: bool = False,
) -> StepResult:
    """Train on one batch.

    Each example's loss is divided by the *global* batch size and everything is summed over the
    workers, which is exact also where workers hold slices of unequal size. The loss and what
    workers wish travel with the gradients, so that all workers learn the same.

    A step whose loss or gradient is not finite counts as one, and leaves weights and moments as
    they are, on every worker alike; the average takes the same weights in once more.

    Nothing here waits for the device.

    Args:
        state: Changed in place.
        batch: This worker's slice of the global batch.
        config: The run's configuration.
        table: The schedule's logsnr of each timestep, on the device, shape ``(T,)``.
        stop: Whether this worker was asked to stop.
        save: Whether this worker was asked to save a checkpoint.

    Returns:
        The result of the step.
    """
    state.optimizer.zero_grad(set_to_none=True)
    loss = _gradients(state, batch, config, table)
    told = torch.tensor([float(batch.bad), float(stop), float(save)])
    facts = torch.cat([loss[None], told.to(table.device, non_blocking=True)])
    with record_function("sum"):
        state.gradients.finish(facts)

    optim, total = config.optim, config.training.total_images
    lr = learning_rate(state.images_seen, optim.lr, optim.lr_schedule, optim.warmup_images, total)
    with record_function("optimizer"):
        parameters = state.network.parameters()
        grad_norm = plain(torch.nn.utils.clip_grad_norm_(parameters, optim.grad_clip))
        skipped = (facts[0].isfinite() & grad_norm.isfinite()).logical_not().float()
        for group in state.optimizer.param_groups:
            group["lr"] = lr
        state.optimizer.found_inf = skipped  # type: ignore[attr-defined]  # as GradScaler tells it
        state.optimizer.step()
    with record_function("average"):
        decay = ema.decay_at(state.steps, config.ema.decay, config.ema.warmup_steps)
        ema.update(state.average, state.network, decay)
    state.steps += 1
    state.images_seen += config.data.global_batch_size
    votes = torch.cat([facts[2:], skipped[None]])
    return StepResult(facts[0], grad_norm, lr, facts[1], votes)
