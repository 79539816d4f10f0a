"""Sending events to a run of MLflow, one batch to a call.

An error that may pass is raised; what MLflow will never take is left out, counted and reported
once, so that it does not hold up what lies behind it.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ray_diffusion.tracking.batch import Batch
from ray_diffusion.tracking.client import brief, is_permanent
from ray_diffusion.tracking.events import Artifact, Event, Points, Registration, Status
from ray_diffusion.tracking.promotion import register

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARTIFACT_TRIES = 6
"""Tries for an artifact while MLflow itself answers (half a minute, with the pauses between):
metrics must not wait for ever behind an artifact store that this machine cannot write to."""

logger = logging.getLogger(__name__)


class Delivery:
    """Sends batches to one run.

    Args:
        client: A client as `ray_diffusion.tracking.client.connect` makes it.
        run_id: The run.

    Attributes:
        skipped: Events left out so far; each value of a metric counts.
    """

    def __init__(self, client: "MlflowClient", run_id: str) -> None:
        self.skipped = 0
        self._client = client
        self._run_id = run_id
        self._artifact_tries = 0

    def send(self, batch: Batch) -> None:
        """Send a batch, all of it or as much as MLflow will ever take.

        Raises:
            Exception: Whatever MLflow and the libraries below it raise for a trouble that may
                pass; the batch may then be sent again as a whole.
        """
        match batch.events:
            case [Artifact() as artifact]:
                self._send_artifact(artifact)
            case [Status() as status]:
                self._send_status(status)
            case [Registration() as registration]:
                self._send_registration(registration)
            case events:
                self._send_points(events)

    def _send_points(self, events: Sequence[Event]) -> None:
        points = [event for event in events if isinstance(event, Points)]
        try:
            self._log_batch(points)
        except Exception as error:
            if not is_permanent(error):
                raise
            # One name that MLflow does not allow must not take the others with it.
            for name in sorted({name for event in points for name in event.metrics}):
                self._send_one_metric(points, name)

    def _send_one_metric(self, points: Sequence[Points], name: str) -> None:
        own = [
            Points(event.time_ms, event.step, {name: event.metrics[name]})
            for event in points
            if name in event.metrics
        ]
        with self._left_out_for_good(f"metric {name!r}", count=len(own)):
            self._log_batch(own)

    def _log_batch(self, points: Sequence[Points]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(name, value, event.time_ms, event.step)
            for event in points
            for name, value in event.metrics.items()
        ]
        self._client.log_batch(self._run_id, metrics=metrics)

    def _send_artifact(self, artifact: Artifact) -> None:
        is_directory = os.path.isdir(artifact.path)
        log = self._client.log_artifacts if is_directory else self._client.log_artifact
        self._with_artifact_store(
            f"artifact {artifact.path}",
            lambda: log(self._run_id, artifact.path, artifact.folder or None),
        )

    def _send_status(self, event: Status) -> None:
        with self._left_out_for_good(f"status {event.status!r}"):
            if event.status == "RUNNING":
                self._client.update_run(self._run_id, status=event.status)
            else:
                self._client.set_terminated(self._run_id, event.status, end_time=event.time_ms)

    def _send_registration(self, event: Registration) -> None:
        what = f"registration of {event.folder} as {event.name!r}"

        def look() -> None:
            if not self._client.list_artifacts(self._run_id, event.folder):
                raise FileNotFoundError("its files did not arrive")

        # Not the rest: a registry that cannot be written to is an outage, however long.
        if self._with_artifact_store(what, look):
            with self._left_out_for_good(what):
                register(self._client, event.name, self._run_id, event.folder, event.tags)

    def _with_artifact_store(self, what: str, use: Callable[[], object]) -> bool:
        """Whether something was done that needs the artifact store; if not, it was skipped."""
        try:
            use()
        except Exception as error:
            if not is_permanent(error):
                self._artifact_tries += 1
                if self._artifact_tries < ARTIFACT_TRIES or not self._answers():
                    raise
            self._skip(what, error)
            done = False
        else:
            done = True
        self._artifact_tries = 0
        return done

    @contextmanager
    def _left_out_for_good(self, what: str, count: int = 1) -> Iterator[None]:
        """Skip what MLflow will never take."""
        try:
            yield
        except Exception as error:
            if not is_permanent(error):
                raise
            self._skip(what, error, count)

    def _answers(self) -> bool:
        """Whether MLflow is there at all."""
        try:
            self._client.get_run(self._run_id)
        except Exception:
            return False
        return True

    def _skip(self, what: str, error: Exception, count: int = 1) -> None:
        if not self.skipped:
            logger.warning("MLflow will not take the %s: skipped (%s)", what, brief(error))
        self.skipped += count
