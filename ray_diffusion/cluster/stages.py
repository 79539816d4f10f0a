"""Who does the tasks of a verb that works on shards, and what its user sees of them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from ray_diffusion.cluster.connect import connected
from ray_diffusion.cluster.environment import forwarded
from ray_diffusion.cluster.progress import ProgressLine, duration
from ray_diffusion.config import Reach
from ray_diffusion.data.packing.stages import Progress, Runner


@contextmanager
def runner(workers: int | None, reach: Reach, on_gpus: bool = False) -> Iterator[Runner]:
    """What does tasks: this process if one worker is enough, else Ray.

    Args:
        workers: Tasks under way at once; None: as many as the cluster has CPUs, or GPUs.
        reach: How tasks reach stores.
        on_gpus: Whether each takes a GPU, where the cluster has any.

    Yields:
        What does them.
    """
    if workers == 1:
        yield map
        return
    environment = forwarded(reach.forward_env)
    with connected(least_cpus=workers or 1):
        from ray_diffusion.cluster.tasks import on_ray  # not before Ray is connected

        yield on_ray(workers, environment, reach.storage_options, on_gpus)


@contextmanager
def progress(what: str) -> Iterator[Progress]:
    """What shows the user how far each stage is.

    Args:
        what: Which things are counted.

    Yields:
        What is to be told.
    """
    line, begun = ProgressLine(), dict[str, tuple[int, float]]()

    def progress(stage: str, done: int, total: int, /) -> None:
        now = time.monotonic()
        # What an earlier launch had done counts for nothing in the speed.
        done_first, since = begun.setdefault(stage, (done, now))
        text = f"{stage} {done:,} of {total:,} {what} ({done / total:.0%})"
        if done > done_first:
            seconds = (total - done) * (now - since) / (done - done_first)
            text += f" · {duration(seconds)} left"
        line.tell(text)

    try:
        yield progress
    finally:
        line.clear()
