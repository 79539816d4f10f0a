"""What the rest of the program uses to record a run."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, get_args

from ray_diffusion.tracking.events import Artifact
from ray_diffusion.tracking.identity import RunIdentity
from ray_diffusion.tracking.shipper import PERIOD_S, Shipper
from ray_diffusion.tracking.spool import Spool

Role = Literal["train", "driver", "evaluate"]
"""Who records. Each has a spool of its own, so that two processes never write to one."""


class Tracker:
    """Records a run from one process: to disk at once, to MLflow when it can.

    What an earlier process of the same role could not ship is shipped as well.

    Args:
        directory: A local directory for the spools, the same at each launch of a run.
        role: Which spool.
        identity: The MLflow run.
        run_id: The run's id, where an earlier launch has written it down.
        period_s: Seconds between deliveries.

    Attributes:
        blocked_s: Seconds that recording has kept its callers, so far.

    Raises:
        UsageError: If another process records this run in this role.
        StorageError: If the spool cannot be opened.
        ValueError: If there is no such role.
    """

    def __init__(
        self,
        directory: Path,
        role: Role,
        identity: RunIdentity,
        *,
        run_id: str | None = None,
        period_s: float = PERIOD_S,
    ) -> None:
        if role not in get_args(Role):
            raise ValueError(f"role must be one of {', '.join(get_args(Role))}, got {role!r}")
        self.blocked_s = 0.0
        self._finished = False
        self._spool = Spool(directory / f"{role}.jsonl")
        self._shipper = Shipper(self._spool, identity, run_id, period_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.finish()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record metrics at a step; what was recorded for a name up to that step stays as it is.

        Args:
            step: Progress, in images seen.
            metrics: Values by name.
        """
        with self._blocking():
            self._spool.log(step, metrics)

    def artifact(self, path: Path, folder: str = "") -> None:
        """Record a local file or directory; it must stay there until it is shipped.

        Args:
            path: The file or directory.
            folder: The run's folder for it; "" for the top.
        """
        with self._blocking():
            self._spool.add_artifact(path, folder)

    def register(self, name: str, folder: str, tags: Mapping[str, str]) -> None:
        """Record that a folder of the run's artifacts is a version of a registered model.

        Args:
            name: The registered model's name; made if MLflow has none of that name.
            folder: The folder; recorded before by `artifact`, and never again with other files.
            tags: What describes the version.
        """
        with self._blocking():
            self._spool.add_registration(name, folder, tags)

    def status(self, status: str) -> None:
        """Record a state of the run, in MLflow's words: RUNNING, FINISHED, FAILED or KILLED."""
        self._spool.set_status(status)

    def sync(self) -> None:
        """Make what was recorded durable; call it before a checkpoint that depends on it."""
        with self._blocking():
            self._spool.sync()

    def tail(self, until: int) -> bytes:
        """What MLflow lacks of the steps up to one; see `ray_diffusion.tracking.spool.Spool`."""
        return self._spool.tail(until)

    def adopt(self, tail: bytes, located: Callable[[Artifact], Artifact]) -> None:
        """Go on from the tail that another machine's checkpoint holds; before anything is logged.

        Args:
            tail: As `tail` made it.
            located: The same artifact, where this machine has its files.
        """
        self._spool.adopt(tail, located)

    def finish(self, status: str | None = None, deadline_s: float = 10.0) -> bool:
        """Record the final state and ship what is left; finishing twice is fine.

        Args:
            status: The final state; None to leave it as it is.
            deadline_s: The longest wait, in seconds.

        Returns:
            Whether everything arrived. The rest ships when the spool is opened again.
        """
        if self._finished:
            return self._spool.drained
        self._finished = True
        if status is not None:
            self._spool.set_status(status)
        try:
            return self._shipper.close(deadline_s)
        finally:
            self._spool.close()

    @property
    def backlog(self) -> int:
        """Points that MLflow does not have yet."""
        return self._spool.backlog

    @property
    def errors(self) -> int:
        """How often MLflow could not be reached, or the disk refused something."""
        return self._shipper.errors + self._spool.errors

    @property
    def skipped(self) -> int:
        """Events that MLflow will never take."""
        return self._shipper.skipped

    @property
    def run_id(self) -> str | None:
        """The MLflow run's id; None until it is known."""
        return self._shipper.run_id

    @property
    def run_url(self) -> str | None:
        """The run's page; None until it is known, and where no server serves one."""
        return self._shipper.run.url if self._shipper.run else None

    @contextmanager
    def _blocking(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.blocked_s += time.perf_counter() - started
