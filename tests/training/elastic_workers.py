"""What each of four gloo processes does for ``test_training_elastic.py``."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import distributed
from toy import BATCH, World

from ray_diffusion import config
from ray_diffusion.config import Config
from ray_diffusion.errors import Preempted
from ray_diffusion.training import loop


@contextmanager
def group(directory: Path, name: str, rank: int, world: int) -> Iterator[bool]:
    """A process group of the first few processes; whether this one belongs to it."""
    if rank >= world:
        yield False
        return
    if world == 1:  # as a run of one worker is: without a group
        yield True
        return
    distributed.init_process_group(
        "gloo", init_method=f"file://{directory}/{name}", rank=rank, world_size=world
    )
    try:
        yield True
        distributed.barrier()
    finally:
        distributed.destroy_process_group()


def work(rank: int, directory: Path, run: Config) -> None:
    """One process; writes down what it read and the losses, by the images seen before."""
    torch.set_num_threads(1)
    os.environ["XDG_CACHE_HOME"] = str(directory / "cache")
    seen: dict[str, dict[int, dict]] = {}
    train_step = loop.train_step

    def recording(state, batch, *rest):
        before, result = state.images_seen, train_step(state, batch, *rest)
        seen[phase][before] = {"read": batch.positions.tolist(), "loss": float(result.loss)}
        return result

    loop.train_step = recording
    micro = config.override(run, {"training.micro_batch_size": BATCH // 4})
    phases = [("1", 1, run, None), ("2", 2, run, None), ("4", 4, run, None)]
    # One alone takes its many examples in the parts that two would have, and four.
    phases += [("elastic", 2, run, 3), ("elastic", 1, micro, 3), ("elastic", 2, run, None)]
    for number, (phase, world, chosen, stop_after) in enumerate(phases):
        seen.setdefault(phase, {})
        with group(directory, f"store-{number}", rank, world) as member:
            if member:
                try:
                    World(directory / phase).train(chosen, stop_after=stop_after)
                except Preempted:
                    assert stop_after
        wait_for_all(directory, number, rank)
    (directory / f"seen-{rank}.json").write_text(json.dumps(seen))


def wait_for_all(directory: Path, number: int, rank: int) -> None:
    """All four meet between two phases."""
    with group(directory, f"between-{number}", rank, 4):
        pass
