"""The functions through which a training loop reaches the world outside."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ray_diffusion import errors
from ray_diffusion.storage import Directory
from ray_diffusion.training import checkpoint


@dataclass(frozen=True)
class Harness:
    """How a loop is resumed, saved, watched and stopped.

    Attributes:
        restore: Brings the newest checkpoint into an empty local directory; False if there is
            none.
        save: Publishes a checkpoint that lies in a local directory, under the images seen.
        log: Takes metrics at a number of images seen.
        show: Takes pictures by name, uint8 ``(height, width, 3)``, at a number of images seen.
        should_stop: Whether to save and stop before the next step; asked once a step, so it must
            not wait.
        should_save: Whether to save after the next step, for a reason of the cluster's; asked
            once a step.

    Only the first worker calls ``save``, ``log`` and ``show``.
    """

    restore: Callable[[Path], bool]
    save: Callable[[Path, int], None]
    log: Callable[[int, Mapping[str, float]], None]
    show: Callable[[int, Mapping[str, Tensor]], None]
    should_stop: Callable[[], bool]
    should_save: Callable[[], bool] = lambda: False


def in_directory(
    run: Directory,
    keep: int,
    log: Callable[[int, Mapping[str, float]], None] = lambda images_seen, metrics: None,
    show: Callable[[int, Mapping[str, Tensor]], None] = lambda images_seen, pictures: None,
    should_stop: Callable[[], bool] = lambda: False,
    warn: Callable[[str], None] = errors.warn,
) -> Harness:
    """A harness that keeps checkpoints in a run directory.

    Args:
        run: The run's directory, in any storage.
        keep: Checkpoints to keep.
        log: See ``Harness``.
        show: See ``Harness``.
        should_stop: See ``Harness``.
        warn: Told of damaged checkpoints.

    Returns:
        The harness.
    """

    def save(directory: Path, images_seen: int) -> None:
        name = checkpoint.name_of(images_seen)
        run.publish(directory, name)
        checkpoint.thin_out(run, name, keep)

    def restore(into: Path) -> bool:
        return checkpoint.fetch_newest(run, into, warn) is not None

    return Harness(restore, save, log, show, should_stop)
