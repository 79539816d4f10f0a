"""The functions through which a training loop reaches the world outside."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.distributed import ProcessGroup

from ray_diffusion import errors
from ray_diffusion.storage import Directory
from ray_diffusion.training import checkpoint
from ray_diffusion.training.retention import Keep, thin_out

Publish = Callable[[Path, int, ProcessGroup | None], None]


@dataclass(frozen=True)
class Harness:
    """How a loop is resumed, saved, watched and stopped.

    Attributes:
        restore: Brings the newest checkpoint into an empty local directory; False if there is
            none.
        save: Publishes a checkpoint that lies in a local directory, under the images seen. Where
            each worker has a share of it, all of them call it, and are told the group that they
            are; else it is None.
        log: Takes metrics at a number of images seen.
        show: Takes pictures by name, uint8 ``(height, width, 3)``, at a number of images seen.
        should_stop: Whether to save and stop before the next step; asked once a step, so it must
            not wait.
        should_save: Whether to save after the next step, for a reason of the cluster's; asked
            once a step.
        pausing: Told on every worker, at the same step, that the next one will have to wait for a
            checkpoint or a validation.

    Only the first worker calls ``save`` of a whole checkpoint, ``log`` and ``show``. Calls of
    ``save`` follow one another in a thread of their own, while the others go on.
    """

    restore: Callable[[Path], bool]
    save: Publish
    log: Callable[[int, Mapping[str, float]], None]
    show: Callable[[int, Mapping[str, Tensor]], None]
    should_stop: Callable[[], bool]
    should_save: Callable[[], bool] = lambda: False
    pausing: Callable[[], None] = lambda: None


def in_directory(
    run: Directory,
    keep: Keep,
    log: Callable[[int, Mapping[str, float]], None] = lambda images_seen, metrics: None,
    show: Callable[[int, Mapping[str, Tensor]], None] = lambda images_seen, pictures: None,
    should_stop: Callable[[], bool] = lambda: False,
    warn: Callable[[str], None] = errors.warn,
) -> Harness:
    """A harness that keeps checkpoints in a run directory.

    Args:
        run: The run's directory, in any storage.
        keep: Which checkpoints stay.
        log: See ``Harness``.
        show: See ``Harness``.
        should_stop: See ``Harness``.
        warn: Told of damaged checkpoints.

    Returns:
        The harness.
    """
    known: dict[str, float | None] = {}

    def save(directory: Path, images_seen: int, group: ProcessGroup | None) -> None:
        name = checkpoint.name_of(images_seen)
        if group is None:
            run.publish(directory, name)
        else:
            from ray_diffusion.training import sharded  # a second to import

            sharded.publish(run, directory, name, group)
        if group is None or group.rank() == 0:
            thin_out(run, name, keep, known)

    def restore(into: Path) -> bool:
        return checkpoint.fetch_newest(run, into, warn) is not None

    return Harness(restore, save, log, show, should_stop)
