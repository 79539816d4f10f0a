"""What a dry run asks a cluster: whether the run fits, and how long it would take."""

import math
import time
from contextlib import closing
from itertools import islice

import ray
import torch

from ray_diffusion.cluster.environment import applied, forwarded
from ray_diffusion.cluster.launch import fitted_to_cluster
from ray_diffusion.cluster.plan import Plan
from ray_diffusion.cluster.progress import duration
from ray_diffusion.config import Config
from ray_diffusion.data.stream import Stream, batches
from ray_diffusion.data.training_set import open_training_set
from ray_diffusion.models.draw import logsnr_table
from ray_diffusion.training.state import initial_state
from ray_diffusion.training.step import train_step

WARM_UP, STEPS = 2, 5


def _seconds_per_step(config: Config, environment: dict[str, str]) -> float:
    """Time of a step of one of the workers, with its data and without the sum over workers."""
    with applied(environment, config.run.storage_options):
        return _measured(config)


def _measured(config: Config) -> float:
    torch.set_num_threads(config.cluster.cpus_per_worker or 1)
    device = torch.device("cuda" if config.cluster.use_gpu else "cpu")
    data, world = config.data, config.cluster.most_workers
    stream = Stream(open_training_set(data), 0, 0, data.global_batch_size, 0, world)
    state, table = initial_state(config, device), logsnr_table(config).to(device)
    started = 0.0
    with closing(batches(stream, data.workers)) as found:
        for step, batch in enumerate(islice(found, WARM_UP + STEPS)):
            if step == WARM_UP:
                started = time.perf_counter()
            float(train_step(state, batch, config, table, stop=False).loss)  # waits for a GPU
    return (time.perf_counter() - started) / STEPS


def rehearse(plan: Plan) -> str:
    """Ask the connected cluster for one worker and let it take a few steps that change nothing.

    Args:
        plan: The run.

    Returns:
        Lines that follow ``plan.describe()``.

    Raises:
        ClusterError: If the cluster is too small.
    """
    config = fitted_to_cluster(plan.config)
    cpus, gpus = config.cluster.cpus_per_worker or 1, int(config.cluster.use_gpu)
    measure = ray.remote(num_cpus=cpus, num_gpus=gpus)(_seconds_per_step)
    try:
        seconds = ray.get(measure.remote(config, forwarded(config.cluster.forward_env)))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None  # what the step raised, as it would in training
    steps = math.ceil(config.training.total_images / config.data.global_batch_size)
    return (
        f"{'cluster':<10} fits, {cpus} CPUs per worker\n"
        f"{'expected':<10} {duration(steps * seconds)} for {steps:,} steps, "
        "measured on one worker; starting, validation and the sum over workers come on top"
    )
