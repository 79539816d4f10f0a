"""The one actor of a launch: workers post on it, the driver reads, and either may stop the run."""

from typing import Any

import ray

from ray_diffusion.errors import RayDiffusionError


@ray.remote(num_cpus=0)
class Board:
    """What the driver and the workers of one launch tell each other.

    Ray Train's own reports are a barrier that hangs when one worker fails to save, and are polled
    at most once a second; these messages are fire and forget.
    """

    def __init__(self) -> None:
        self._facts: dict[str, Any] = {}
        self._warnings: list[str] = []
        self._nodes: dict[int, str] = {}
        self._starts = 0
        self._stop = False
        self._saves = 0
        self._failure: RayDiffusionError | None = None

    def started(self, rank: int, world: int, node: str) -> None:
        """A worker of a new group is about to train."""
        self._starts += rank == 0
        self._nodes = {r: n for r, n in self._nodes.items() if r < world} | {rank: node}
        self._facts["workers"] = world

    def post(self, facts: dict[str, Any]) -> None:
        """Replace what is known of the run's progress, key by key."""
        self._facts |= facts

    def warn(self, message: str) -> None:
        """Tell the user something that does not stop the run."""
        self._warnings.append(message)

    def read(self) -> dict[str, Any]:
        """All facts, with ``restarts``, ``nodes``, and the ``warnings`` not read before."""
        warnings, self._warnings = self._warnings, []
        told = {"restarts": max(0, self._starts - 1), "nodes": set(self._nodes.values())}
        return self._facts | told | {"warnings": warnings}

    def request_stop(self) -> None:
        """Ask the workers to save and stop."""
        self._stop = True

    def request_save(self) -> None:
        """Ask the workers to save and go on."""
        self._saves += 1

    def requested(self) -> tuple[bool, int]:
        """Whether the workers should save and stop, and how often they were asked to save."""
        return self._stop, self._saves

    def fail(self, failure: RayDiffusionError) -> None:
        """End the run for a reason that a restart of the workers would not cure."""
        self._failure = self._failure or failure

    def failure(self) -> RayDiffusionError | None:
        """Why the run ended, if for such a reason."""
        return self._failure
