"""Checkpoints saved in the background: training pays for the copy in host memory alone."""

import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from torch.distributed import ProcessGroup

from ray_diffusion.storage import explained
from ray_diffusion.training.checkpoint import Snapshot, write
from ray_diffusion.training.harness import Publish


class Saver:
    """Writes and publishes snapshots from a thread of its own, one at a time and in order.

    Leaving the context waits for the last one, also when an error leaves it: what was copied is
    published. An error of training is then the one that is raised, and tells in a note what
    became of the checkpoint.

    Args:
        publish: ``Harness.save``: publishes a checkpoint that lies in a local directory, under
            the images seen. Called from the thread.
        group: All workers, if each of them has a share of a snapshot: then each has a saver, and
            all of these are given the same snapshots.
    """

    def __init__(self, publish: Publish, group: ProcessGroup | None = None) -> None:
        self._publish, self._group = publish, group
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._saving: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.wait()
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"the last checkpoint was not saved: {failure}")
        finally:
            self._thread.shutdown()

    def save(self, snapshot: Snapshot) -> None:
        """Hand a snapshot to the thread, as soon as the one before is published.

        Two snapshots fill the memory of the host only if this one was taken before: ``wait``
        first where there is no room.

        Args:
            snapshot: What to save.

        Raises:
            StorageError: If the one before could not be written or published.
        """
        self.wait()
        self._saving = self._thread.submit(self._save, snapshot)

    def wait(self) -> None:
        """Wait until all that was handed over is published.

        Raises:
            StorageError: If it could not be written or published; told once.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def check(self) -> None:
        """Raise what ``wait`` would, if it is known by now; never waits."""
        if self._saving is not None and self._saving.done():
            self.wait()

    def _save(self, snapshot: Snapshot) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            with explained("write a checkpoint to", scratch):
                write(Path(scratch), snapshot, self._group)
            self._publish(Path(scratch), snapshot.images_seen, self._group)
