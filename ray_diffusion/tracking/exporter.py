"""Serves the metrics of runs to Prometheus."""

import threading
import time
from collections.abc import Callable, Iterator
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from ray_diffusion.tracking.metrics import Report, RunState, expose

KEEP_S = 300.0
"""How long a run is shown after its last report: several scrapes, to see a run of seconds, too."""


class Exporter(Collector):
    """Serves the newest report of each run, until some time after its last.

    Args:
        port: Where to serve, on all interfaces; 0 takes any.
        clock: The Unix time.

    Attributes:
        port: Where it serves; None where it cannot.
        complaint: Why it cannot, in a few words; None where it serves.
    """

    def __init__(self, port: int, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._runs: dict[str, RunState] = {}
        self._heard_at: dict[str, float] = {}
        self._last_heard_at = clock()
        self._mutex = threading.Lock()  # scrapes come in threads of the server
        self._server: WSGIServer | None = None
        self.port: int | None = None
        self.complaint: str | None = None
        registry = CollectorRegistry()
        registry.register(self)
        try:
            self._server, _ = start_http_server(port, registry=registry)
            self.port = self._server.server_port
        except OSError as error:
            self.complaint = f"port {port}: {(error.strerror or str(error)).lower()}"

    def report(self, run: str, report: Report, finished: bool = False) -> str | None:
        """Replace what is known of a run.

        Args:
            run: Its name.
            report: Absolute values.
            finished: Whether there will be no more: the run's ages stand still from now on.

        Returns:
            The complaint.
        """
        with self._mutex:
            now = self._heard_at[run] = self._last_heard_at = self._clock()
            self._runs[run] = RunState(report, now if finished else None)
        return self.complaint

    @property
    def idle(self) -> bool:
        """Whether nothing is left to be served."""
        return self._clock() - self._last_heard_at > KEEP_S

    def close(self) -> None:
        """Serve no more, and give the port back."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def collect(self) -> Iterator[Metric]:
        """All metrics, as prometheus_client asks for them at each scrape."""
        now = self._clock()
        with self._mutex:
            for run in [run for run, at in self._heard_at.items() if now - at > KEEP_S]:
                del self._runs[run], self._heard_at[run]
            runs = dict(self._runs)
        return expose(runs, now)
