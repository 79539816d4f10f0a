"""What a run asks a cluster before it starts: whether it fits, how long it takes, and on what."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import ray
import torch

from ray_diffusion.cluster.environment import applied, forwarded
from ray_diffusion.cluster.launch import fitted_to_cluster
from ray_diffusion.cluster.plan import Plan
from ray_diffusion.cluster.progress import duration
from ray_diffusion.config import Config
from ray_diffusion.training.profiling import profiled, seconds_per_step

TRACE = "trace.json.gz"

Found = TypeVar("Found")
Work = Callable[[Config, torch.device], Found]


def _as_worker(work: Work[Found], config: Config, environment: dict[str, str]) -> Found:
    """Do ``work`` in the place of one of the run's workers."""
    torch.set_num_threads(config.cluster.cpus_per_worker or 1)
    device = torch.device("cuda" if config.cluster.use_gpu else "cpu")
    with applied(environment, config.run.storage_options):
        return work(config, device)


def _on_the_cluster(work: Work[Found], config: Config) -> Found:
    cluster = config.cluster
    cpus, gpus = cluster.cpus_per_worker or 1, int(cluster.use_gpu)
    task: Any = ray.remote(num_cpus=cpus, num_gpus=gpus)(_as_worker)
    try:
        found: Found = ray.get(task.remote(work, config, forwarded(cluster.forward_env)))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None  # what the step raised, as it would in training
    return found


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
    seconds = _on_the_cluster(seconds_per_step, config)
    steps = math.ceil(config.training.total_images / config.data.global_batch_size)
    return (
        f"{'cluster':<10} fits, {config.cluster.cpus_per_worker} CPUs per worker\n"
        f"{'expected':<10} {duration(steps * seconds)} for {steps:,} steps, "
        "measured on one worker; starting, validation and the sum over workers come on top"
    )


def profile(plan: Plan) -> str:
    """Ask the connected cluster for one worker, and find out where the time of its steps goes.

    Nothing of the run changes but ``trace.json.gz`` in its directory.

    Args:
        plan: The run.

    Returns:
        Lines that follow ``plan.describe()``.

    Raises:
        ClusterError: If the cluster is too small.
        StorageError: If the trace cannot be written.
    """
    found = _on_the_cluster(profiled, fitted_to_cluster(plan.config))
    plan.run.write(TRACE, found.trace)
    return f"{found.text}\n{'trace':<10} {plan.run.url}/{TRACE}, for ui.perfetto.dev"
