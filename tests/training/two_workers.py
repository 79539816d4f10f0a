"""What each of two gloo processes does for ``test_training_workers.py``."""

import copy
import os
from contextlib import closing
from pathlib import Path

import torch
from torch import distributed, nn
from toy import BATCH, CPU, World

from ray_diffusion import config
from ray_diffusion.config import Config
from ray_diffusion.data.reader import Batch
from ray_diffusion.data.stream import Stream, batches
from ray_diffusion.data.training_set import open_split, open_training_set
from ray_diffusion.errors import Preempted
from ray_diffusion.models.codecs.space import Pixels
from ray_diffusion.models.draw import logsnr_table
from ray_diffusion.training import collective, validation
from ray_diffusion.training.collective import GradientSum, rank_and_world, sum_over_workers
from ray_diffusion.training.loop import loop
from ray_diffusion.training.state import initial_state
from ray_diffusion.training.step import train_step
from ray_diffusion.training.task import Task
from ray_diffusion.training.tasks import task_of
from ray_diffusion.training.validation import validation_loss


def awake(run: Config) -> torch.nn.Module:
    """A network whose zeroed layers have weights too, so that its losses depend on its input."""
    network, draws = initial_state(run, CPU).network, torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1, generator=draws)
    return network


def val_loss(run: Config) -> float:
    with open_split(run.data, "val") as val:
        return validation_loss(awake(run), val, run, Pixels(), logsnr_table(run))


def task(run: Config, device: torch.device = CPU) -> Task:
    """What a run learns; of its validation split nothing is read."""
    return task_of(run, device, open_split(run.data, "val"))


def sums(rank: int) -> list[torch.Tensor]:
    """Of a matrix in another memory format, a scalar and an empty tensor."""
    matrix = torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last)
    tensors = [matrix * 10**rank, torch.tensor(float(rank + 1)), torch.zeros(0)]
    sum_over_workers(tensors)
    return tensors


def first_slice(run: Config, rank: int, world: int) -> Batch:
    """A worker's part of the first batch."""
    train, batch = open_training_set(run.data), run.data.global_batch_size
    with closing(batches(Stream(train, run.run.seed, 0, batch, rank, world))) as found:
        return next(found)


def first_step(run: Config, rank: int, world: int) -> tuple[float, float]:
    """Loss and gradient norm of the first step."""
    batch = first_slice(run, rank, world)
    state = initial_state(run, CPU)
    state.network.load_state_dict(awake(run).state_dict())
    result = train_step(state, batch, task(run))
    return float(result.loss), float(result.grad_norm)


def gradients(rank: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The same gradients summed at once, and in small buckets while they come to be."""
    torch.manual_seed(0)
    flat = nn.Sequential(*(nn.Linear(3, 3) for _ in range(6)))
    overlapping = copy.deepcopy(flat)
    x, facts = torch.randn(2, 5, 3)[rank], torch.tensor([float(rank)])
    for row in (x[:2], x[2:]):
        flat(row).square().sum().backward()
    sum_over_workers([parameter.grad for parameter in flat.parameters()])
    collective.BUCKET_BYTES = 60  # a weight and its bias
    sums = GradientSum(overlapping.parameters())
    for row, last in ((x[:2], False), (x[2:], True)):
        sums.backward(overlapping(row).square().sum(), last)
    sums.finish(facts)
    assert facts == 1
    return tuple([p.grad for p in network.parameters()] for network in (flat, overlapping))


def stopped_then_continued(run: Config, directory: Path, rank: int) -> str:
    """The message of the stop that the second worker alone was asked for, after three steps."""
    world, asked = World(directory), iter(range(100))
    try:
        loop(run, world.harness(should_stop=lambda: rank == 1 and next(asked) == 2), CPU)
        message = "not stopped"
    except Preempted as stop:
        message = str(stop)
    distributed.barrier()
    world.train(run)
    return message


def work(rank: int, directory: Path, run: Config) -> None:
    """One process; leaves ``result-RANK.pt`` and two runs in the directory."""
    torch.set_num_threads(1)
    os.environ["XDG_CACHE_HOME"] = str(directory / "cache")
    validation.BATCH = 30  # 100 images: two batches for each worker, the last a short one
    store = f"file://{directory}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    try:
        uneven = config.override(run, {"data.global_batch_size": BATCH + 1})
        World(directory / "undisturbed").train(uneven)
        distributed.barrier()
        result = {
            "rank and world": rank_and_world(),
            "sums": sums(rank),
            "val/loss": val_loss(run),
            "first step": first_step(uneven, rank, 2),
            "micro step": first_step(
                config.override(uneven, {"training.micro_batch_size": 5}), rank, 2
            ),
            "gradients": gradients(rank),
            "stopped": stopped_then_continued(uneven, directory / "stopped", rank),
        }
        torch.save(result, directory / f"result-{rank}.pt")
    finally:
        distributed.destroy_process_group()
