"""Random draws that depend on their name alone, never on what was drawn before.

A long-lived generator ties every draw to the history of the process and has to be saved to be
resumed. Here each draw has a name such as ``("step", seed, images_seen, rank)``; the name is
hashed into the seed of a fresh generator. A resumed run asks for the same names.
"""

import hashlib

import torch
from torch import Tensor


def generator(*name: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator that is a pure function of ``name``.

    Args:
        name: What the draw is for. Names that differ in any part give independent streams.
        device: Where the generator draws.

    Returns:
        A seeded generator.
    """
    digest = hashlib.blake2b(repr(name).encode(), digest_size=8).digest()
    seed = int.from_bytes(digest, "little", signed=True)
    return torch.Generator(device).manual_seed(seed)


def per_example_noise(
    what: str, seed: int, indices: list[int], shape: tuple[int, ...], device: torch.device | str
) -> Tensor:
    """Standard normal noise in which example ``i`` depends on ``(what, seed, indices[i])`` alone.

    Drawn on the CPU, so an image can be made again on other hardware and in another batch.

    Args:
        what: Separates uses of the same seed and index, e.g. ``"x_T"`` or ``"step 3"``.
        seed: The user's seed.
        indices: The index of each example.
        shape: The shape of one example, e.g. ``(C, H, W)``.
        device: Where the result goes.

    Returns:
        Noise, shape ``(len(indices), *shape)``, float32.
    """
    draws = [torch.randn(shape, generator=generator(what, seed, index)) for index in indices]
    return torch.stack(draws).to(device)
