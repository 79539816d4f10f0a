"""A run's metrics on local disk, on their way to MLflow.

A spool is three files: ``NAME.jsonl``, to which events are only ever appended; ``NAME.acked``, how
far MLflow has them; and ``NAME.lock``, held by the one process that writes. Writing a line costs
the training step microseconds whatever the tracking server does, and what is written is shipped,
by this process or by the next one.

Exactly one point for each (name, step) comes from two marks. The *high-water mark* of a name is
its largest step so far: training that restarts from a checkpoint computes the same values again,
and points at or below the mark are skipped. The *acked offset* moves only after MLflow has taken
what lies before it; what is sent twice, because the process died in between, carries the same
timestamp and is stored once.

A run that goes on at another machine finds no spool there. What MLflow lacked of it comes with the
checkpoint (`Spool.tail`, `Spool.adopt`), and what MLflow has of the steps after the checkpoint is
not sent again (`Spool.arrived`).
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ray_diffusion.errors import StorageError
from ray_diffusion.tracking.batch import BATCH_POINTS, Batch, batches, beyond, highest
from ray_diffusion.tracking.events import (
    Artifact,
    Event,
    Points,
    Registration,
    Status,
    decode,
    encode,
)
from ray_diffusion.tracking.journal import Journal
from ray_diffusion.tracking.lock import hold

LOCK_WAIT_S = 5.0
"""How long to wait for a killed predecessor to be gone."""


class Spool:
    """A durable, append-only log of events and how much of it has arrived.

    After it is open, recording raises no fault of the disk: training must go on. What the disk
    refuses waits in memory, see `ray_diffusion.tracking.journal`; the marks of what there is no
    room for do not move, so a restart from a checkpoint records it.

    `log`, `add_artifact`, `set_status` and `sync` may be called by one thread while another one
    calls `unshipped` and `ack`.

    Args:
        path: The log, ``….jsonl``; its directory is made.

    Raises:
        UsageError: If another process has this spool open.
        StorageError: If the files cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._acked_path = path.with_suffix(".acked")
        self._mutex = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = hold(path.with_suffix(".lock"), LOCK_WAIT_S)
            self._journal = Journal(path)
            self._acked, self._acked_marks = self._read_acked()
            self._marks, self._backlog = dict(self._acked_marks), 0
            for batch in self.unshipped():
                self._marks.update(batch.marks)
                self._backlog += batch.num_points
        except OSError as error:
            raise StorageError(f"cannot open the metric spool {path}: {error}") from error

    @property
    def errors(self) -> int:
        """How often the disk refused something."""
        return self._journal.errors

    @property
    def lost(self) -> int:
        """Events refused because memory for waiting ones ran out."""
        return self._journal.lost

    @property
    def backlog(self) -> int:
        """Points that MLflow does not have yet."""
        return self._backlog

    @property
    def acked_marks(self) -> Mapping[str, int]:
        """The largest step of each metric that MLflow has."""
        return self._acked_marks

    @property
    def drained(self) -> bool:
        """Whether everything recorded has arrived."""
        return self._acked == self._journal.size and not self._journal.waiting

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the values of some metrics at a step, except those recorded before.

        Args:
            step: Progress, in images seen.
            metrics: Values by name. NaN and infinities are kept; MLflow stores an infinity as the
                largest double.
        """
        values = {name: float(value) for name, value in metrics.items()}
        with self._mutex:
            self._append_points(Points(_now_ms(), step, values))

    def add_artifact(self, path: Path, folder: str) -> None:
        """Record that a local file or directory belongs to the run.

        Args:
            path: The file or directory; it has to stay there until it is shipped.
            folder: Where the run's artifacts should have it; "" for the top.
        """
        with self._mutex:
            self._append(Artifact(_now_ms(), str(path.absolute()), folder))

    def add_registration(self, name: str, folder: str, tags: Mapping[str, str]) -> None:
        """Record that a folder of the run's artifacts is a version of a registered model.

        Args:
            name: The registered model's name.
            folder: The folder; recorded before as an artifact, and never again with other files.
            tags: What describes the version.
        """
        with self._mutex:
            self._append(Registration(_now_ms(), name, folder, tags))

    def set_status(self, status: str) -> None:
        """Record a state of the run: RUNNING, FINISHED, FAILED or KILLED."""
        with self._mutex:
            self._append(Status(_now_ms(), status))

    def tail(self, until: int) -> bytes:
        """What MLflow does not have of the steps up to one, for `adopt` on another machine.

        Args:
            until: The last step, in images seen; those behind it are recorded again there.

        Raises:
            OSError: If the disk fails.
        """
        events = (event for batch in self.unshipped() for event in batch.events)
        kept = (e for e in events if not isinstance(e, Points) or e.step <= until)
        return b"".join(map(encode, kept))

    def adopt(self, tail: bytes, located: Callable[[Artifact], Artifact]) -> None:
        """Go on from another spool of the run; what this one has of it already is passed over.

        Args:
            tail: As `tail` made it.
            located: The same artifact, where this machine has its files.
        """
        with self._mutex, self.path.open("rb") as log:
            known = {event for line in log if isinstance(event := decode(line), Artifact)}
            for event in map(decode, tail.splitlines()):
                if isinstance(event, Points):
                    self._append_points(event)
                elif isinstance(event, Artifact) and (found := located(event)) not in known:
                    self._append(found)

    def arrived(self, steps: Mapping[str, int]) -> None:
        """Take points for sent that MLflow got from the run's other machines.

        Each machine sends its points in order, those of the tail it adopted before its own: so up
        to the latest step MLflow has all of them.

        Args:
            steps: The latest step of each metric in MLflow.

        Raises:
            OSError: If the note of it cannot be written.
            ValueError: If the spool is closed.
        """
        self._note(self._acked, highest(self._acked_marks, steps), 0)

    def unshipped(self, limit: int = BATCH_POINTS) -> Iterator[Batch]:
        """What lies behind the acked offset, in order.

        Args:
            limit: The most points in one batch.

        Raises:
            OSError: If the disk fails.
            ValueError: If the spool is closed.
        """
        with self._mutex:
            start, end = self._acked, self._journal.size
        if start == end:
            return
        # Before anything is sent: what a power cut takes away is recorded again at another time,
        # and would then be there twice.
        self._journal.flush()
        with self.path.open("rb") as file:
            yield from batches(file, start, end, limit)

    def ack(self, batch: Batch) -> None:
        """Note that a batch of `unshipped` has arrived, so that it is not sent again.

        Raises:
            OSError: If the note cannot be written; the batch is then sent again one day.
            ValueError: If the spool is closed: the batch belongs to whoever opens it next.
        """
        self._note(batch.end, highest(self._acked_marks, batch.marks), batch.num_points)

    def sync(self) -> None:
        """Put everything recorded so far where a power cut cannot take it."""
        with self._mutex:
            self._journal.sync()

    def close(self) -> None:
        """Make the log durable and let go of it; closing twice is fine."""
        if not self._journal.closed:
            with self._mutex:
                self._journal.close()
            self._lock.close()

    def _append_points(self, points: Points) -> None:
        new = beyond(points, self._marks)
        if isinstance(new, Points) and self._append(new):
            self._marks.update(dict.fromkeys(new.metrics, new.step))
            self._backlog += len(new.metrics)

    def _append(self, event: Event) -> bool:
        # Points may wait for `sync`: training goes on from a checkpoint, and records them again.
        return self._journal.append(encode(event), durable=not isinstance(event, Points))

    def _note(self, acked: int, marks: dict[str, int], arrived: int) -> None:
        """Write down how far MLflow has the log, and that so many of its points arrived."""
        if self._journal.closed:
            raise ValueError(f"{self.path} is closed")
        beside = self._acked_path.with_suffix(".acked.tmp")
        beside.write_text(json.dumps({"offset": acked, "marks": marks}))
        os.replace(beside, self._acked_path)
        with self._mutex:
            self._acked, self._acked_marks = acked, marks
            self._backlog -= arrived

    def _read_acked(self) -> tuple[int, dict[str, int]]:
        """The offset and the marks there; a damaged note only means that all is sent again."""
        try:
            note = json.loads(self._acked_path.read_bytes())
            return min(int(note["offset"]), self._journal.size), dict(note["marks"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return 0, {}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
