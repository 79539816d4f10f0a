"""The board of a launch: workers post on it, the driver reads, and either may stop the run.

Where driver and worker are one process, a `Board` is all there is. Else it is an actor, and
workers have a `RemoteBoard`.
"""

import time
from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar, get_args

import ray

from ray_diffusion.errors import RayDiffusionError
from ray_diffusion.tracking.metrics import Snapshot

Reason = Literal["failure", "stall", "drain", "resize"]
"""Why workers are started again."""

Answer = TypeVar("Answer")

REQUEST_PERIOD_S = 0.5
"""How often a worker asks a remote board what the driver wishes."""


class Board:
    """What the driver and the workers of one launch tell each other.

    Ray Train's own reports are a barrier that hangs when one worker fails to save, and are polled
    at most once a second; these messages are fire and forget.
    """

    def __init__(self) -> None:
        self._facts: dict[str, Any] = {}
        self._warnings: list[str] = []
        self._nodes: dict[int, str] = {}
        self._measured: dict[int, Snapshot] = {}
        self._reasons = dict.fromkeys(get_args(Reason), 0)
        self._expected: Reason | None = None
        self._world = 0
        self._stop = False
        self._saves = 0
        self._failure: RayDiffusionError | None = None

    def started(self, rank: int, world: int, node: str, placement: Any = None) -> None:
        """A worker of a new group is about to train.

        Args:
            rank: Which.
            world: Of how many.
            node: Id of its node.
            placement: The placement group that holds the workers' resources, if there is one.
        """
        if rank == 0:
            if self._world:
                resized: Reason = "resize" if world != self._world else "failure"
                self._reasons[self._expected or resized] += 1
            self._world, self._expected = world, None
        self._nodes = {r: n for r, n in self._nodes.items() if r < world} | {rank: node}
        self._measured = {r: m for r, m in self._measured.items() if r < world}
        self._facts["workers"] = world

    def expect(self, reason: Reason) -> None:
        """Say why the workers will be started again, if they will."""
        self._expected = reason

    def measured(self, rank: int, snapshot: Snapshot) -> None:
        """Replace what is measured of a worker."""
        self._measured[rank] = snapshot

    def post(self, facts: dict[str, Any]) -> None:
        """Replace what is known of the run's progress, key by key."""
        self._facts |= facts

    def warn(self, message: str) -> None:
        """Tell the user something that does not stop the run."""
        self._warnings.append(message)

    def read(self) -> dict[str, Any]:
        """All facts.

        With them come ``restarts``, their ``reasons`` counted, the ``nodes``, what is ``measured``
        of each worker, and the ``warnings`` not read before.
        """
        warnings, self._warnings = self._warnings, []
        return self._facts | {
            "restarts": sum(self._reasons.values()),
            "reasons": dict(self._reasons),
            "nodes": set(self._nodes.values()),
            "measured": dict(self._measured),
            "warnings": warnings,
        }

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

    def settle(self) -> None:
        """Wait until all that was told is here, which it is."""


class Polled(Generic[Answer]):
    """An actor's answer to a question, half a second old or older: no call waits for it.

    Args:
        ask: Asks the actor; the first answer is waited for.
    """

    def __init__(self, ask: Callable[[], Any]) -> None:
        self._ask, self._asked_at = ask, time.monotonic()
        self._newest: Answer = ray.get(ask())
        self._pending = ask()

    def __call__(self) -> Answer:
        """The newest answer."""
        if time.monotonic() - self._asked_at >= REQUEST_PERIOD_S:
            answered, _ = ray.wait([self._pending], timeout=0)
            if answered:
                self._newest = ray.get(self._pending)
                self._pending, self._asked_at = self._ask(), time.monotonic()
        return self._newest


class RemoteBoard:
    """A board in another process, as a worker has it: its methods are those of ``Board``.

    Nothing waits for the board but what must be certain.

    Args:
        actor: The board.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self.requested: Polled[tuple[bool, int]] = Polled(actor.requested.remote)
        self.started, self.expect = actor.started.remote, actor.expect.remote
        self.measured, self.post, self.warn = (
            actor.measured.remote,
            actor.post.remote,
            actor.warn.remote,
        )

    def fail(self, failure: RayDiffusionError) -> None:
        """End the run for a reason that a restart of the workers would not cure."""
        ray.get(self._actor.fail.remote(failure))

    def failure(self) -> RayDiffusionError | None:
        """Why the run ended, if for such a reason."""
        found: RayDiffusionError | None = ray.get(self._actor.failure.remote())
        return found

    def settle(self) -> None:
        """Wait until all that was told is there: an actor does calls in their order."""
        self.failure()
