"""One optimizer step, the same to the bit however often the run was interrupted before it."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.profiler import record_function

from ray_diffusion.config import Config
from ray_diffusion.data.order import part
from ray_diffusion.data.reader import Batch
from ray_diffusion.models import ema
from ray_diffusion.models.dropout import dropout_of
from ray_diffusion.training.collective import plain, rank_and_world
from ray_diffusion.training.lr import learning_rate
from ray_diffusion.training.state import TrainState
from ray_diffusion.training.task import Task


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


def _losses(state: TrainState, batch: Batch, places: range, task: Task) -> Tensor:
    """The loss of each example; its draws are named by the seed, the images seen and its place."""
    seed, device = task.config.run.seed, task.device
    dropout = dropout_of("dropout", seed, state.images_seen, places.start, device=device)
    with record_function("forward"), autocast(task.config, device), dropout:
        losses = task.losses(state.network, batch, places, state.images_seen)
    return losses * batch.weights.to(device, non_blocking=True)


def _gradients(state: TrainState, batch: Batch, task: Task) -> Tensor:
    """Add up the gradients of this worker's examples; its part of the mean loss."""
    config, device = task.config, task.device
    total = config.data.global_batch_size
    parts = micro_batches(total, *rank_and_world(), config.training.micro_batch_size)
    sum_of_losses = torch.zeros((), device=device)
    for i, places in enumerate(parts):
        rows = slice(places.start - parts[0].start, places.stop - parts[0].start)
        loss = _losses(state, batch.at(rows), places, task).sum() / total
        sum_of_losses += loss.detach()
        with record_function("backward"):
            state.gradients.backward(loss, last=i == len(parts) - 1)
    return sum_of_losses


def train_step(
    state: TrainState,
    batch: Batch,
    task: Task,
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
        task: What is learned.
        stop: Whether this worker was asked to stop.
        save: Whether this worker was asked to save a checkpoint.

    Returns:
        The result of the step.
    """
    config = task.config
    state.optimizer.zero_grad(set_to_none=True)
    loss = _gradients(state, batch, task)
    told = torch.tensor([float(batch.bad), float(stop), float(save)])
    facts = torch.cat([loss[None], told.to(task.device, non_blocking=True)])
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
