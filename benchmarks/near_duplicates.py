"""How much the difference hashes of copies and of different pictures differ.

What ``NEAR_BITS`` of the packer rests on: altered copies of photographs should be within it, other
pictures beyond.

    python benchmarks/near_duplicates.py
"""

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from sklearn.datasets import load_digits, load_sample_images

from ray_diffusion.data.packing.duplicates import near_twins
from ray_diffusion.data.packing.images import difference_hash

CROPS = 600
BITS = (1, 3, 5, 10)
Box = tuple[int, int, int, int]  # left, top, right, bottom

Picture = Image.Image


def jpeg(quality: int) -> Callable[[Picture], Picture]:
    def alter(image: Picture) -> Picture:
        file = io.BytesIO()
        image.save(file, "jpeg", quality=quality)
        return Image.open(file).convert("RGB")

    return alter


def resized(factor: float) -> Callable[[Picture], Picture]:
    return lambda image: image.resize((int(image.width * factor), int(image.height * factor)))


def brighter(factor: float) -> Callable[[Picture], Picture]:
    return lambda image: ImageEnhance.Brightness(image).enhance(factor)


def trimmed(image: Picture) -> Picture:
    edge = image.width // 50
    return image.crop((edge, edge, image.width - edge, image.height - edge))


ALTERATIONS: dict[str, Callable[[Picture], Picture]] = {
    "JPEG, quality 95": jpeg(95),
    "JPEG, quality 75": jpeg(75),
    "JPEG, quality 50": jpeg(50),
    "half the size": resized(0.5),
    "twice the size": resized(2),
    "5 % darker": brighter(0.95),
    "5 % brighter": brighter(1.05),
    "half the size, brighter, quality 75": lambda i: jpeg(75)(brighter(1.05)(resized(0.5)(i))),
    "2 % trimmed off each side": trimmed,
}


def crops() -> list[tuple[int, Box, Picture]]:
    """Squares of two photographs, with the photograph and the place of each."""
    draw, found = np.random.default_rng(0), []
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for i in range(CROPS):
        photograph, side = photographs[i % 2], int(draw.integers(64, 300))
        left = int(draw.integers(0, photograph.width - side))
        top = int(draw.integers(0, photograph.height - side))
        box = left, top, left + side, top + side
        found.append((i % 2, box, photograph.crop(box)))
    return found


def apart(a: tuple[int, Box, Picture], b: tuple[int, Box, Picture]) -> bool:
    """Whether two crops share no pixel."""
    (_, (left, top, right, bottom), _), (_, (left_b, top_b, right_b, bottom_b), _) = a, b
    beside = min(right, right_b) <= max(left, left_b) or min(bottom, bottom_b) <= max(top, top_b)
    return a[0] != b[0] or beside


def tell(name: str, distances: NDArray[np.int64]) -> None:
    shares = "".join(f"{(distances <= bits).mean():10.2%}" for bits in BITS)
    print(f"{name:<38}{len(distances):>10,}{shares}")


def main() -> None:
    """Measure and print."""
    found = crops()
    hashes = np.array([difference_hash(image) for _, _, image in found], np.uint64)
    print(f"{'share of pairs that differ in at most':<48}{''.join(f'{b:>10}' for b in BITS)} bits")
    for name, alter in ALTERATIONS.items():
        copies = np.array([difference_hash(alter(image)) for _, _, image in found], np.uint64)
        tell(name, np.bitwise_count(hashes ^ copies).astype(np.int64))
    pairs = [(i, j) for i in range(CROPS) for j in range(i) if apart(found[i], found[j])]
    first, second = np.array(pairs).T
    tell("different crops", np.bitwise_count(hashes[first] ^ hashes[second]).astype(np.int64))
    digits = [Image.fromarray((x * 15.9).astype(np.uint8)) for x in load_digits().images]
    for side in (8, 32):
        of_digits = [difference_hash(image.resize((side, side))) for image in digits]
        left_out = sum(twin != i for i, twin in enumerate(near_twins(of_digits)))
        print(f"of {len(digits):,} digits of {side} pixels `near` leaves out {left_out}")


if __name__ == "__main__":
    main()
