"""Sums over all workers of a run; without a process group, over this one alone."""

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, distributed, nn
from torch.distributed import ProcessGroup

BUCKET_BYTES = 25 * 2**20  # one collective's worth: a smaller one is mostly latency


def rank_and_world() -> tuple[int, int]:
    """This worker's rank and the number of workers."""
    if distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def sum_over_workers(tensors: list[Tensor]) -> None:
    """Replace tensors by their sums over all workers, in one collective call.

    Args:
        tensors: Of one dtype and device, and of the same shapes on each worker; changed in place.
    """
    if rank_and_world()[1] > 1:
        _Sum(tensors).finish()


def plain(tensor: Tensor) -> Tensor:
    """A tensor as it is, or put together from all workers, who all ask, if it is spread."""
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


class Gradients(Protocol):
    """How the gradients of a step come to be, and to be sums over all workers.

    Attributes:
        group: All workers, over gloo, if each of them has a share of the weights; else None.
    """

    group: ProcessGroup | None

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradients of a loss to those that are there.

        Args:
            loss: A scalar.
            last: Whether these are the last of the step: now they may be summed.
        """

    def finish(self, facts: Tensor) -> None:
        """Wait for the sums; ``facts``, numbers of this worker, become their sums too."""


class _Sum:
    """One collective under way."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self._tensors = tensors
        self._flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        self._work: Any = distributed.all_reduce(self._flat, async_op=True)

    def finish(self) -> None:
        self._work.wait()
        parts = torch.split(self._flat, [tensor.numel() for tensor in self._tensors])
        for tensor, part in zip(self._tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


class GradientSum:
    """Sums gradients over all workers while the backward pass is still under way.

    Buckets of parameters are laid out once, from the order of the parameters alone, last ones
    first, as their gradients come. DistributedDataParallel lays its buckets out anew after the
    first step, so a resumed run would add in another order than an undisturbed one and differ in
    the last bit (docs/decisions/0003).

    Args:
        parameters: Those of the network, in its order.
    """

    group: ProcessGroup | None = None

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._buckets: list[list[nn.Parameter]] = [[]]
        room = BUCKET_BYTES
        for parameter in reversed(list(parameters)):
            if self._buckets[-1] and parameter.nbytes > room:
                self._buckets.append([])
                room = BUCKET_BYTES
            self._buckets[-1].append(parameter)
            room -= parameter.nbytes
            parameter.register_post_accumulate_grad_hook(self._arrived)  # type: ignore[no-untyped-call]
        self._missing: set[nn.Parameter] = set()
        self._begun = 0  # buckets
        self._sums: list[_Sum] = []
        self._last = False

    def backward(self, loss: Tensor, last: bool) -> None:
        """See ``Gradients``."""
        self._last = last and rank_and_world()[1] > 1
        if self._last:
            self._missing = {parameter for bucket in self._buckets for parameter in bucket}
            self._begun = 0
        loss.backward()  # type: ignore[no-untyped-call]

    def finish(self, facts: Tensor) -> None:
        """See ``Gradients``."""
        if self._last:
            self._missing.clear()  # what got no gradient gets none on any worker
            self._begin()
            self._sums.append(_Sum([facts]))
            for one in self._sums:
                one.finish()
            self._sums.clear()

    def _arrived(self, parameter: nn.Parameter) -> None:
        if self._last:
            self._missing.discard(parameter)
            self._begin()

    def _begin(self) -> None:
        """Start the sums whose turn has come; in one order on all workers, or they would hang."""
        for bucket in self._buckets[self._begun :]:
            if not self._missing.isdisjoint(bucket):
                return
            self._begun += 1
            found = [parameter.grad for parameter in bucket if parameter.grad is not None]
            if found:
                self._sums.append(_Sum(found))
