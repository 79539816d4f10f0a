"""The board of a trial: what is told there reaches the judge, and what the judge says is heeded."""

import math
from typing import Any

import ray

from ray_diffusion.cluster.board import Board, Polled


class TrialBoard(Board):
    """A board of which the judge is told.

    Args:
        judge: The judge.
        name: The trial.
        metric: The figure that it is judged by.
    """

    def __init__(self, judge: Any, name: str, metric: str) -> None:
        super().__init__()
        self._judge, self._name, self._metric = judge, name, metric
        self._stopping: Polled[bool] = Polled(judge.stopping.remote)

    def started(self, rank: int, world: int, node: str, placement: Any = None) -> None:
        """A worker is about to train."""
        super().started(rank, world, node, placement)
        if rank == 0 and placement is not None:
            self._judge.placed.remote(self._name, placement)

    def post(self, facts: dict[str, Any]) -> None:
        """Replace what is known of the trial's progress; after a validation it may be over."""
        super().post(facts)
        if "validated" in facts:
            # The loss of the same step came before; there is none if all steps were skipped.
            figures = {"train/loss": self._facts.get("loss", math.nan), **facts["validated"]}
            if self._metric in figures:
                self._report(facts["images_seen"], figures[self._metric])
        elif "images_seen" in facts:
            self._judge.post.remote(self._name, facts)

    def warn(self, message: str) -> None:
        """Tell the user something that does not stop the trial."""
        self._judge.warn.remote(self._name, message)

    def requested(self) -> tuple[bool, int]:
        """Whether the trial should save and stop, and how often it was asked to save."""
        stop, saves = super().requested()
        return stop or self._stopping(), saves

    def _report(self, images_seen: int, value: float) -> None:
        if not ray.get(self._judge.report.remote(self._name, images_seen, value)):
            self.request_stop()
