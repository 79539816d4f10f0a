"""Learning rate as a function of images seen; no state, so nothing to resume.

To add a schedule, write a function of progress in [0, 1] and add it to ``LR_SCHEDULES``.
"""

import math
from collections.abc import Callable

LR_SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "linear": lambda progress: 1 - progress,
}


def learning_rate(
    images_seen: int, lr: float, schedule: str, warmup_images: int, total_images: int
) -> float:
    """The learning rate of the step that begins at ``images_seen``.

    Args:
        images_seen: Progress, in ``[0, total_images)``.
        lr: The peak.
        schedule: A key of ``LR_SCHEDULES``, followed after the warm-up.
        warmup_images: Images over which the rate rises linearly to the peak.
        total_images: Where the schedule ends.

    Returns:
        The learning rate.
    """
    if images_seen < warmup_images:
        return lr * (images_seen + 1) / warmup_images
    progress = (images_seen - warmup_images) / max(1, total_images - warmup_images)
    return lr * LR_SCHEDULES[schedule](min(1.0, progress))
