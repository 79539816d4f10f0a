"""The actor on the head node that serves the metrics of all runs, and how reports get there."""

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import ray

from ray_diffusion.tracking.exporter import Exporter
from ray_diffusion.tracking.metrics import Report

PORT = 9095
PERIOD_S = 1.0  # of a driver's reports
IDLE_LOOK_S = 5.0  # how often a hub looks whether it is still of use
LAST_REPORT_S = 2.0  # the longest wait of a driver for its last report to arrive
TRIES = 5  # in a row, for a hub that never answers a report
ON_THE_HEAD = {"node:__internal_head__": 0.001}


def port_of(metrics_port: int | None) -> int:
    """The port that ``tracking.metrics_port`` stands for; 0 for no hub.

    A cluster that this command has started ends with it: nobody would find its hub, or in time.
    """
    if metrics_port is not None:
        return metrics_port
    return 0 if os.environ.get("RAY_ADDRESS", "") in ("", "local") else PORT


class MetricsHub(Exporter):
    """An exporter as an actor, which ends when nothing is left to be served.

    It may be killed at any time: reports hold absolute values, Ray or a driver starts it again.

    Args:
        port: Where to serve.
    """

    def __init__(self, port: int) -> None:
        super().__init__(port)
        itself = ray.get_runtime_context().current_actor
        threading.Thread(target=self._look, args=(itself,), name="idle", daemon=True).start()

    def leave(self) -> None:
        """End for good, unless a report came in meanwhile."""
        if self.idle:
            ray.actor.exit_actor()  # type: ignore[no-untyped-call]

    def _look(self, itself: Any) -> None:
        while True:
            time.sleep(IDLE_LOOK_S)
            if self.idle:
                itself.leave.remote()  # an actor can end itself only in a call


def hub(port: int) -> Any:
    """The connected cluster's hub at a port; it is started if there is none."""
    actor: Any = ray.remote(MetricsHub)
    return actor.options(
        name=f"metrics-hub-{port}",
        namespace="ray_diffusion",
        get_if_exists=True,
        lifetime="detached",
        max_restarts=-1,
        num_cpus=0,
        resources=ON_THE_HEAD,
    ).remote(port)


class Feed:
    """Brings a run's reports to the hub, and starts it again when it is gone.

    No call waits for the hub or raises what becomes of it.

    Args:
        run: The run's name.
        port: The hub's; 0 for no hub.
        warn: Told once if there are no metrics.
    """

    def __init__(self, run: str, port: int, warn: Callable[[str], None]) -> None:
        self._run, self._port, self._warn = run, port, warn
        self._hub: Any = None
        self._pending: Any = None  # the answer to the report that is under way
        self._sent_at, self._failures = -PERIOD_S, 0
        self._last: Report = ()

    def report(self, report: Report) -> None:
        """Hand a report over, if it is time to and the one before has arrived."""
        self._last = report
        if self._port and time.monotonic() - self._sent_at >= PERIOD_S and self._answered():
            self._send()

    def finish(self) -> None:
        """Hand the newest report over as the run's last; takes two seconds at most."""
        if self._port and self._last:
            self._send(finished=True)
            if self._pending is not None:
                ray.wait([self._pending], timeout=LAST_REPORT_S)
                self._answered()

    def _send(self, finished: bool = False) -> None:
        self._sent_at = time.monotonic()
        try:
            self._hub = self._hub or hub(self._port)
            self._pending = self._hub.report.remote(self._run, self._last, finished)
        except (ray.exceptions.RayError, ValueError):  # another driver is starting one
            self._hub = self._pending = None

    def _answered(self) -> bool:
        if self._pending is None:
            return True
        arrived, _ = ray.wait([self._pending], timeout=0)
        if not arrived:
            return False
        pending, self._pending = self._pending, None
        try:
            complaint = ray.get(pending)
            self._failures = 0
        except ray.exceptions.RayError as error:
            self._hub, complaint = None, None
            self._failures += 1
            if self._failures == TRIES:
                complaint = f"their actor does not start ({type(error).__name__})"
        if complaint is not None:
            self._warn(f"no metrics for Prometheus: {complaint}; see tracking.metrics_port")
            self._port = 0
            if self._hub is not None:
                ray.kill(self._hub)  # it would stay in the way of the next run's
        return bool(self._port)
