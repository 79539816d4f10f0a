"""Sums over all workers of a run; without a process group, over this one alone."""

import torch
from torch import Tensor, distributed


def rank_and_world() -> tuple[int, int]:
    """This worker's rank and the number of workers."""
    if distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def sum_over_workers(tensors: list[Tensor]) -> None:
    """Replace tensors by their sums over all workers, in one collective call.

    One flat buffer, not DistributedDataParallel's buckets: those are laid out anew after the
    first step, so a resumed run would add in another order than an undisturbed one and differ in
    the last bit (docs/decisions/0003).

    Args:
        tensors: Of one dtype and device, and of the same shapes on each worker; changed in place.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    distributed.all_reduce(flat)
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))
