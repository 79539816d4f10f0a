"""Notices that a worker must go: a SIGTERM to its process, a node that is being drained."""

import signal
import threading
from collections.abc import Collection
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


def leaving(nodes: Collection[str]) -> set[str]:
    """Which of some nodes of the connected cluster are being drained.

    Args:
        nodes: Ids of nodes.
    """
    # Ray Train's own watcher asks the same; what it tells workers is behind a barrier of theirs.
    drained: dict[str, int] = ray._private.state.state.get_draining_nodes()
    return {node for node in nodes if node in drained}
