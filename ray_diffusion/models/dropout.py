"""Dropout that a resumed run repeats.

``nn.Dropout`` draws from torch's own generator, whose state no checkpoint holds. A step therefore
seeds that generator by name for as long as its forward pass takes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ray_diffusion.diffusion.random import generator


@contextmanager
def dropout_of(*name: str | int, device: torch.device) -> Iterator[None]:
    """Let what networks drop follow from ``name`` alone.

    Args:
        name: What the draws are for; see ``diffusion.random.generator``. Nothing else may be drawn
            under the same name: it would get the same random numbers.
        device: Where the networks run.

    Yields:
        Once, around the forward pass. After it torch's own generator is as it was before.
    """
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        own = torch.cuda.default_generators[index]
    else:
        own = torch.default_generator
    before = own.get_state()
    own.manual_seed(generator(*name).initial_seed())
    try:
        yield
    finally:
        own.set_state(before)
