"""How numbers are distributed, as a drawing (SVG) in a page."""

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from fractions import Fraction
from html import escape
from itertools import pairwise
from typing import NamedTuple

from ray_diffusion.page.scale import round_up

STYLE = """
:root { --bar: #3f6fb0; }
@media (prefers-color-scheme: dark) { :root { --bar: #7ea6dd; } }
svg { display: block; width: 100%; max-width: 28rem; height: auto; margin: 0 auto;
  font-size: 12px; font-variant-numeric: tabular-nums; }
svg text { fill: var(--soft); }
svg line { stroke: var(--line); }
svg rect { fill: var(--bar); }
"""
MOST_BINS = 30
# A longest hundredth that would need more than half of the axis again becomes one bar.
TAIL, STRETCH = 0.01, 1.5
FINEST = 1000  # bins are not narrower than this part of the largest value: no digits of rounding
MARKS = 7  # numbers on the horizontal axis, about

# Of the drawing, in pixels of a small screen.
WIDTH, HEIGHT = 400, 210
TOP, FLOOR, RIGHT = 26, 168, 22  # the bars stand on FLOOR and reach up to TOP
CHARACTER, TAIL_LABEL = 7.5, 70  # widths of a digit, and of what the last bar says
GAP = 1.5  # between bars


class Bin(NamedTuple):
    """How many values are in ``[start, stop)``."""

    start: float
    stop: float
    frequency: int


def bins(values: Sequence[float]) -> list[Bin]:
    """Count values in intervals whose edges are round numbers.

    Args:
        values: At least one, finite. If all are integers the edges are integers.

    Returns:
        Intervals of one width that follow one another and hold every value, about ``MOST_BINS`` at
        most. A long tail is one interval more, which ends at infinity.
    """
    ordered = sorted(values)
    least, most = ordered[0], ordered[-1]
    usual = ordered[math.ceil((len(ordered) - 1) * (1 - TAIL))]
    long_tail = usual > least and most - least > STRETCH * (usual - least)
    end = usual if long_tail else most
    whole = all(isinstance(value, int) for value in ordered)
    width = max((end - least) / MOST_BINS, abs(end) / FINEST)
    step = round_up(max(width, 1) if whole else width or 1)
    # In fractions, as in floats 0.3 // 0.1 is 2.
    first, last = (Fraction(str(value)) // step for value in (least, end))
    edges: list[float] = [(int if whole else float)(step * i) for i in range(first, last + 2)]
    if long_tail:
        edges.append(math.inf)
    below = [bisect_left(ordered, edge) for edge in edges]
    return [
        Bin(start, stop, upto - before)
        for (start, stop), (before, upto) in zip(pairwise(edges), pairwise(below), strict=True)
    ]


def histogram(values: Sequence[float], label: str, counted: str) -> str:
    """Draw how values are distributed.

    Args:
        values: At least one, finite.
        label: What they are, with their unit: the name of the horizontal axis.
        counted: What has them: the name of the vertical axis.

    Returns:
        SVG that needs ``STYLE``; a pointer on a bar shows its bounds and count.
    """
    found = bins(values)
    highest = max(bin.frequency for bin in found)
    left = CHARACTER * len(f"{highest:,}") + 10
    wide = (WIDTH - RIGHT - left) / len(found)
    name = escape(f"{counted} by {label}")
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}">'
        + _text(0, 12, counted, "start")
        + "".join(_levels(highest, left))
        + "".join(_bars(found, left, wide, (FLOOR - TOP) / highest))
        + "".join(_marks(found, left, wide))
        + _text((left + WIDTH - RIGHT) / 2, HEIGHT - 6, label, "middle")
        + "</svg>"
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _levels(highest: int, left: float) -> Iterator[str]:
    """The vertical axis: a line across at round counts."""
    for count in range(0, highest + 1, int(round_up(max(highest / 4, 1)))):
        y = FLOOR - count * (FLOOR - TOP) / highest
        yield f'<line x1="{left:.1f}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield _text(left - 6, y + 4, f"{count:,}", "end")


def _bars(found: Sequence[Bin], left: float, wide: float, scale: float) -> Iterator[str]:
    for i, bin in enumerate(found):
        high = bin.frequency * scale
        if _single(bin):
            bounds = _number(bin.start)
        elif bin.stop == math.inf:
            bounds = f"≥ {_number(bin.start)}"
        else:
            bounds = f"{_number(bin.start)} to {_number(bin.stop)}"
        yield (
            f'<rect x="{left + i * wide:.1f}" y="{FLOOR - high:.1f}" width="{wide - GAP:.1f}" '
            f'height="{high:.1f}"><title>{escape(bounds)}: {bin.frequency:,}</title></rect>'
        )


def _marks(found: Sequence[Bin], left: float, wide: float) -> Iterator[str]:
    """The horizontal axis: numbers at round edges, or below bars that are one number wide."""
    right = WIDTH - RIGHT
    if found[-1].stop == math.inf:
        yield _text(right, FLOOR + 16, f"≥ {_number(found[-1].start)}", "end")
        right -= TAIL_LABEL
    single = _single(found[0])
    step = round_up((found[-1].start - found[0].start or 1) / MARKS)
    edges = [bin.start for bin in found] + ([] if single else [found[-1].stop])
    for i, edge in enumerate(edges):
        x = left + (i + single / 2) * wide
        if x <= right and Fraction(str(edge)) % step == 0:
            yield _text(x, FLOOR + 16, _number(edge), "middle")


def _single(bin: Bin) -> bool:
    """Whether one integer alone is in it."""
    return isinstance(bin.start, int) and bin.stop - bin.start == 1


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
