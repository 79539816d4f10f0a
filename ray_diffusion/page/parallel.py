"""Parallel coordinates: what many things have in common, a line for each across all axes."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any, NamedTuple

from ray_diffusion.page.chart import CHARACTER, WIDTH, group, polyline, text
from ray_diffusion.page.scale import Categories, Scale

TOP, FLOOR, HEIGHT = 44, 296, 312
RIGHT = 12
WIDEST = 130  # pixels from one axis to the next where there are many
LONGEST = 16  # characters of a category


class Axis(NamedTuple):
    """One of the axes.

    Attributes:
        name: What stands above it.
        scale: Where values lie on it.
    """

    name: str
    scale: Scale | Categories


class Path(NamedTuple):
    """One of the lines.

    Attributes:
        name: What a pointer on it is told.
        values: One for each axis; the line leaves out an axis on which its value has no place.
        color: CSS.
        kind: ``faded``, ``best`` or nothing.
    """

    name: str
    values: Sequence[Any]
    color: str
    kind: str = ""


def parallel(axes: Sequence[Axis], paths: Sequence[Path]) -> str:
    """Draw things as lines across their values, the later ones over the earlier.

    Args:
        axes: At least two, from left to right.
        paths: The lines.

    Returns:
        SVG that needs ``chart.STYLE``.
    """
    longest = max((len(label) for _, label in axes[0].scale.ticks()), default=0)
    left = CHARACTER * min(longest, LONGEST) + 12
    width = max(WIDTH, WIDEST * len(axes))
    apart = (width - left - RIGHT) / (len(axes) - 1)
    places = [left + i * apart for i in range(len(axes))]
    names = ", ".join(axis.name for axis in axes)
    return (
        f'<svg class="chart" viewBox="0 0 {width} {HEIGHT}" role="img" '
        f'aria-label="{escape(names)}">'
        + "".join(_path(axes, places, path) for path in paths)
        + "".join(_axis(axis, x) for axis, x in zip(axes, places, strict=True))
        + "".join(_names(axes, places, width))
        + "</svg>"
    )


def _up(share: float) -> float:
    return FLOOR - share * (FLOOR - TOP)


def _path(axes: Sequence[Axis], places: Sequence[float], path: Path) -> str:
    points = [
        (x, _up(axis.scale.at(value)))
        for axis, x, value in zip(axes, places, path.values, strict=True)
        if axis.scale.holds(value)
    ]
    return group(path.name, path.color, path.kind, polyline(points)) if points else ""


def _axis(axis: Axis, x: float) -> str:
    ticks = (text(x - 6, _up(share) + 4, _cut(label), "end") for share, label in axis.scale.ticks())
    line = f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{FLOOR}"/>'
    return line + "".join(ticks)


def _names(axes: Sequence[Axis], places: Sequence[float], width: float) -> Iterator[str]:
    """The names of the axes in two rows in turn, as they may be longer than axes are apart."""
    for i, (axis, x) in enumerate(zip(axes, places, strict=True)):
        y = TOP - 28 + 16 * (i % 2)
        if i == 0:
            yield text(0, y, axis.name)
        elif i == len(axes) - 1:
            yield text(width, y, axis.name, "end")
        else:
            yield text(x, y, axis.name, "middle")


def _cut(label: str) -> str:
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"
