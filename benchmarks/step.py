"""What everything around the network costs: the step's shares, measured in one process.

Prints each stage's processor time, in which other work on the machine does not count, as a multiple
of that of the bare network's forward and backward pass::

    python benchmarks/step.py [PRESET] [key.path=value ...]
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from ray_diffusion import config as configs
from ray_diffusion.data.stream import Stream, batches
from ray_diffusion.data.training_set import open_split, open_training_set
from ray_diffusion.diffusion.levels import levels_at
from ray_diffusion.diffusion.objective import denoising_loss
from ray_diffusion.models.codecs.space import Pixels
from ray_diffusion.models.draw import logsnr_table
from ray_diffusion.models.pixels import encode
from ray_diffusion.tracking.spool import Spool
from ray_diffusion.training.checkpoint import snapshot
from ray_diffusion.training.denoising import Denoising
from ray_diffusion.training.state import initial_state
from ray_diffusion.training.step import train_step
from ray_diffusion.training.validation import objective_of

ROUNDS, STEPS = 5, 4


def seconds(work: Callable[[], object]) -> float:
    """Processor time of one call and of what it lets threads do, the mean of a few."""
    started = time.process_time()
    for _ in range(STEPS):
        work()
    return (time.process_time() - started) / STEPS


def main() -> None:
    """Measure and print."""
    config = configs.load(sys.argv[1:])
    data = config.data
    dataset = open_training_set(data)
    manifest = dataset.manifest
    config = configs.override(
        config,
        {
            "model.num_classes": len(manifest.classes),
            "model.image_channels": manifest.channels,
        },
    )
    device = torch.device("cpu")
    state, table = initial_state(config, device), logsnr_table(config)
    task = Denoising(config, device, open_split(data, "val"), Pixels())
    found = batches(Stream(dataset, 0, 0, data.global_batch_size), data.workers)
    batch = next(found)
    x0, noise = encode(batch.images), torch.randn(batch.images.shape)
    timesteps = torch.randint(len(table), (len(x0),))
    levels = levels_at(config.diffusion.timestep_sampling, table, timesteps)

    def network() -> None:
        loss = denoising_loss(state.network, x0, batch.labels, levels, noise, objective_of(config))
        loss.mean().backward()

    with tempfile.TemporaryDirectory() as scratch:
        spool = Spool(Path(scratch, "train.jsonl"))
        point = dict.fromkeys(("train/loss", "train/grad_norm", "train/lr"), 0.5)
        stages: dict[str, Callable[[], object]] = {
            "network, forward and backward": network,
            "whole step (draws, optimizer, EMA)": lambda: train_step(state, batch, task),
            "whole step and its data": lambda: train_step(state, next(found), task),
            "one point of metrics on disk": lambda: spool.log(time.time_ns(), point),
            "a checkpoint, as the step waits for it": lambda: snapshot(state, config, dataset),
            "of it the bare copy of its bytes": lambda: [value.clone() for value in kept],
        }
        train_step(state, batch, task)  # from now on there are moments
        kept = [*state.network.parameters(), *state.average.parameters()]
        kept += [m for moments in state.optimizer.state.values() for m in moments.values()]
        measured: dict[str, list[float]] = {name: [] for name in stages}
        for _ in range(ROUNDS):  # interleaved, so that a change of the machine's speed hits all
            for name, work in stages.items():
                measured[name].append(seconds(work))
        spool.close()
        found.close()
    base = median(measured["network, forward and backward"])
    print(f"{torch.get_num_threads()} threads, {data.global_batch_size} images a step")
    for name, values in measured.items():
        print(f"{name:<36} {median(values) * 1e3:8.2f} ms  x {median(values) / base:.3f}")


if __name__ == "__main__":
    main()
