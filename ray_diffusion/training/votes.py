"""What workers wish and what a step came to, known to all without any waiting for a device."""

from collections import deque

import torch
from torch import Tensor


class Votes:
    """Reads the votes of a run's steps.

    On a GPU each step's votes are read when the next step has been handed to it: to read them at
    once would let the GPU run dry at every step.

    Args:
        device: Where the steps are taken.
    """

    def __init__(self, device: torch.device) -> None:
        self._late = int(device.type == "cuda")
        self._pending: deque[tuple[Tensor, torch.cuda.Event | None]] = deque()

    def told(self, votes: Tensor) -> list[bool]:
        """What at least one worker votes for, as of the newest step that is read.

        Args:
            votes: Of the step just taken, shape ``(n,)``; the same on every worker.

        Returns:
            For each of them whether there is a vote; nothing but False for the first step on a GPU.
        """
        self._pending.append(_on_the_way(votes))
        if len(self._pending) <= self._late:
            return [False] * len(votes)
        here, arrived = self._pending.popleft()
        if arrived is not None:
            arrived.synchronize()  # of a step that is over, or nearly
        return [vote > 0 for vote in here.tolist()]


def _on_the_way(votes: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    if not votes.is_cuda:
        return votes, None
    here = torch.empty(votes.shape, dtype=votes.dtype, pin_memory=True)
    here.copy_(votes, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record()
    return here, arrived
