"""Values between those that are known."""

import torch
from torch import Tensor


def interpolated(logsnr: Tensor, levels: Tensor, values: Tensor) -> Tensor:
    """Values known at some levels, linearly in between and constant beyond.

    Args:
        logsnr: Where, shape ``(B,)``.
        levels: Where they are known, increasing, shape ``(K,)``.
        values: Shape ``(K,)``.

    Returns:
        Shape ``(B,)``, float64.
    """
    x = logsnr.double().clamp(levels[0], levels[-1])
    upper = torch.searchsorted(levels, x).clamp(1, len(levels) - 1)
    share = (x - levels[upper - 1]) / (levels[upper] - levels[upper - 1])
    return (1 - share) * values[upper - 1] + share * values[upper]
