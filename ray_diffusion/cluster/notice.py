"""Notices that it is time to go: a signal to driver or worker, a node that is being drained."""

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.train.torch import TorchConfig

_told_to_go = threading.Event()  # in the process of a worker


def listen() -> None:
    """Take SIGTERM for a wish to save and stop; to be called in a worker's main thread."""
    signal.signal(signal.SIGTERM, lambda number, frame: _told_to_go.set())


def told_to_go() -> bool:
    """Whether this worker got a SIGTERM."""
    return _told_to_go.is_set()


@contextmanager
def stop_on_signals(stop: Callable[[], object]) -> Iterator[None]:
    """On Ctrl-C or SIGTERM save and stop; on a second Ctrl-C stop at once.

    Args:
        stop: Has the workers save and stop.
    """

    def heed(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop()
        print("\nstopping after a checkpoint; Ctrl-C again stops at once", file=sys.stderr)

    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the business of whoever owns the process
        return
    old = {number: signal.signal(number, heed) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc] # its name is private
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        # Ray calls this in the main threads of the workers; the training function has another.
        worker_group.execute(listen)
        super().on_start(worker_group, backend_config)


@dataclass
class Backend(TorchConfig):
    """PyTorch's process group, among workers that heed SIGTERM."""

    @property
    def backend_cls(self) -> type:
        """What sets a worker group up."""
        return _Backend


class Drains:
    """When to save for nodes that are being drained.

    Workers stay on such a node to its end: what they compute after a checkpoint is lost. So it is
    time for one at once, and again whenever half of what was left is over.
    """

    def __init__(self) -> None:
        self._due: dict[str, float] = {}

    def due(self, nodes: Collection[str]) -> set[str]:
        """Those of some nodes of the connected cluster for which it is time to save.

        Args:
            nodes: Ids of nodes.
        """
        # Ray Train's watcher asks the same; what it tells the workers is behind a barrier.
        drained: dict[str, int] = ray._private.state.state.get_draining_nodes()
        now = time.time()
        due = {node for node in nodes if node in drained and self._due.get(node, 0.0) <= now}
        for node in due:
            left = drained[node] / 1000 - now  # no deadline is a deadline of 0
            self._due[node] = now + left / 2 if left > 0 else math.inf
        return due
