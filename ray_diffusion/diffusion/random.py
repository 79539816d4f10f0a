"""Random draws that depend on their name alone, never on what was drawn before.

A long-lived generator ties every draw to the history of the process and has to be saved to be
resumed. Here each draw has a name such as ``("step", seed, images_seen)``; the name is hashed into
the seed of a fresh generator. A resumed run asks for the same names.
"""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 32  # places of a batch that share a generator: seeding one costs as much as 500 draws


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


class Draws:
    """Random numbers for some places of a batch, the same whoever holds which of them.

    Each block of 32 places has a generator of its own. Whoever holds a place draws for its whole
    block and keeps the own part, so a batch gets the same numbers from any number of workers and
    micro-batches, and no two places get the same.

    Args:
        name: What the draws are for; see ``generator``.
        places: The places in the batch, in order.
        device: Where to draw.
    """

    def __init__(self, *name: str | int, places: range, device: torch.device | str = "cpu") -> None:
        first, end = places.start // BLOCK, -(-places.stop // BLOCK)
        self.places = places
        self._generators = [generator(*name, block, device=device) for block in range(first, end)]
        self._own = slice(places.start - first * BLOCK, places.stop - first * BLOCK)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, ``shape`` of them a place; ``(len(places), *shape)``."""
        return self._drawn(
            lambda own: torch.randn((BLOCK, *shape), generator=own, device=own.device)
        )

    def uniform(self) -> Tensor:
        """A number in [0, 1) for each place; ``(len(places),)``, float64."""
        return self._drawn(
            lambda own: torch.rand(BLOCK, generator=own, device=own.device, dtype=torch.float64)
        )

    def _drawn(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        return torch.cat([draw(own) for own in self._generators])[self._own]


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
