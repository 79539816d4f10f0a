"""A runner of independent tasks on Ray, in the place of the built-in ``map``."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import ray

from ray_diffusion.cluster.environment import applied
from ray_diffusion.data.packing.stages import Runner
from ray_diffusion.errors import WorkersFailed

T = TypeVar("T")
R = TypeVar("R")


def on_ray(
    workers: int | None,
    environment: Mapping[str, str] | None = None,
    storage_options: Sequence[str] = (),
    on_gpus: bool = False,
) -> Runner:
    """Have tasks done by the connected cluster, one CPU each.

    Args:
        workers: Tasks under way at once; None: as many as the cluster has CPUs (or GPUs), and as
            many again that wait for one.
        environment: Variables that tasks find in their environment, as ``forwarded`` made them.
        storage_options: As ``run.storage_options``.
        on_gpus: Whether each task takes a GPU too, where the cluster has any. Ray keeps a process
            for tasks alike, which may keep in turn what it has brought to its GPU.

    Returns:
        A runner. It raises what a task raises, and then asks for no other. Those under way run
        to their end, or to the end of this process: Ray aborts a process that cancels a task
        at the moment at which its result arrives.
    """

    def run(function: Callable[[T], R], tasks: Iterable[T], /) -> Iterator[R]:
        have = ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = int(have.get("GPU", 0)) if on_gpus else 0
        most = workers or 2 * (gpus or int(have["CPU"]))
        remote: Any = ray.remote(num_cpus=1, num_gpus=min(gpus, 1))(_call)
        call = partial(remote.remote, environment or {}, storage_options, function)
        waiting = iter(tasks)
        under_way = deque(map(call, islice(waiting, most)))
        while under_way:
            yield _result(under_way.popleft())
            under_way.extend(map(call, islice(waiting, 1)))

    return run


def _call(
    environment: Mapping[str, str],
    storage_options: Sequence[str],
    function: Callable[[T], R],
    task: T,
) -> R:
    with applied(environment, storage_options):
        return function(task)


def _result(task: Any) -> Any:
    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None  # what the task raised, as it would in this process
    except ray.exceptions.RayError as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WorkersFailed(f"a worker of the cluster failed: {line}") from error
