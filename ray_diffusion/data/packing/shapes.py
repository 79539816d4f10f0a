"""Drawn images of six shapes in colour: any number of them, each a pure function of its number.

A shape is a distance field ``(u, v) -> d``, negative inside. ``u`` and ``v`` are relative to the
shape's centre, turned with it, and in units of its radius: every shape fits the unit disc. Where
``d`` crosses zero its slope is 1, so an edge is smooth where ``d`` is clipped at half a pixel.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ray_diffusion.data.order import key

SIDE = 128  # pixels; packing at a smaller size averages them
SALT = 0x5A4E5  # what the draws' keys are for; any constant that no other use of `key` has

Field = NDArray[np.float64]


def _sides(count: int, u: Field, v: Field) -> Field:
    """Distances from the centre along the normals of a regular polygon's sides, (count, H, W)."""
    turns = [2 * math.pi * i / count for i in range(count)]
    return np.stack([math.cos(turn) * u + math.sin(turn) * v for turn in turns])


def disc(u: Field, v: Field) -> Field:
    """A full circle."""
    return np.asarray(np.hypot(u, v) - 1)


def ring(u: Field, v: Field) -> Field:
    """A circle with a hole of half its radius."""
    return np.asarray(np.abs(np.hypot(u, v) - 0.75) - 0.25)


def triangle(u: Field, v: Field) -> Field:
    """An equilateral triangle: inside of all three sides."""
    return np.asarray(_sides(3, u, v).max(axis=0) - math.cos(math.pi / 3))


def square(u: Field, v: Field) -> Field:
    """A square: inside of all four sides."""
    return np.asarray(_sides(4, u, v).max(axis=0) - math.cos(math.pi / 4))


def cross(u: Field, v: Field) -> Field:
    """Two bars at a right angle."""
    long, wide = np.maximum(np.abs(u), np.abs(v)), np.minimum(np.abs(u), np.abs(v))
    return np.maximum(long - 0.95, wide - 0.3)


def star(u: Field, v: Field) -> Field:
    """A pentagram: inside of at least four of five sides."""
    return np.asarray(np.partition(_sides(5, u, v), 3, axis=0)[3] - math.cos(2 * math.pi / 5))


SHAPES: dict[str, Callable[[Field, Field], Field]] = {
    "disc": disc,
    "square": square,
    "triangle": triangle,
    "ring": ring,
    "cross": cross,
    "star": star,
}


def _colour(lightness: float, hue: float) -> Field:
    """An RGB colour, shape (3,); its mean is the lightness, as the three cosines sum to zero."""
    return lightness + 0.25 * np.array([math.cos(2 * math.pi * (hue - i / 3)) for i in range(3)])


def draw(number: int) -> NDArray[np.uint8]:
    """A shape of random colour, place, size and turn on a soft gradient.

    Args:
        number: Which image. The shape is ``number`` modulo the count of shapes; all else is
            hashed from the number, so that images outlive any library's generator.

    Returns:
        uint8, shape ``(SIDE, SIDE, 3)``.
    """
    draws = iter((key(SALT, number, np.arange(10)) / 2.0**64).tolist())

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(next(draws))

    radius = uniform(0.24, 0.42)  # of the image's side, like all lengths here
    cx, cy = (uniform(radius + 0.03, 0.97 - radius) for _ in range(2))
    turn, slope = (uniform(0, 2 * math.pi) for _ in range(2))
    # One of shape and ground is light, the other dark: any two hues are told apart.
    light, dark = uniform(0.68, 0.75), uniform(0.25, 0.36)
    lightness, ground_lightness = (light, dark) if uniform(0, 1) < 0.5 else (dark, light)
    hue, ground_hue = uniform(0, 1), uniform(0, 1)

    x = (np.arange(SIDE) + 0.5) / SIDE
    y = x[:, None]
    u = (math.cos(turn) * (x - cx) + math.sin(turn) * (y - cy)) / radius
    v = (math.cos(turn) * (y - cy) - math.sin(turn) * (x - cx)) / radius
    distance = list(SHAPES.values())[number % len(SHAPES)](u, v) * radius * SIDE
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    along = 0.5 + (math.cos(slope) * (x - 0.5) + math.sin(slope) * (y - 0.5)) / math.sqrt(2)
    start, stop = _colour(ground_lightness, ground_hue), _colour(ground_lightness, ground_hue + 0.2)
    ground = start + (stop - start) * along[..., None]
    rgb = ground + (_colour(lightness, hue) - ground) * cover
    return np.asarray(np.round(255 * rgb), np.uint8)
