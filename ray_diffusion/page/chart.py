"""Lines and dots over two axes, bars, and what their colours mean, as drawings in a page.

Names and labels are plain text and escaped here. Colours are CSS: ``series`` for kinds, ``shade``
for amounts.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import chain
from typing import NamedTuple

from ray_diffusion.page.scale import Scale, brief, fit

STYLE = """
:root { --s0: #2f6db5; --s1: #d9742b; --s2: #2c8f5e; --s3: #b23f78; --s4: #7d5fc0; --s5: #9b8412;
  --s6: #2794a6; --s7: #8a5640; --good: #1f5fb0; --poor: #d5dbe3; }
@media (prefers-color-scheme: dark) { :root { --s0: #7fb0ee; --s1: #f0a060; --s2: #67c896;
  --s3: #e585b4; --s4: #b39cf0; --s5: #d3bd4f; --s6: #66c8d8; --s7: #c9987f; --good: #8cc0ff;
  --poor: #3a434e; } }
.chart { display: block; width: 100%; height: auto; font-size: 12px;
  font-variant-numeric: tabular-nums; }
.chart text { fill: var(--soft); }
.chart line, .chart rect { stroke: var(--line); }
.chart polyline, .chart path { fill: none; stroke: var(--c); stroke-width: 1.6;
  stroke-linejoin: round; }
.chart circle { fill: var(--c); stroke: var(--card); }
.chart text { paint-order: stroke; stroke: var(--card); stroke-width: 3px; }
.chart .axis { stroke: var(--soft); }
.chart .rung { stroke: var(--soft); stroke-dasharray: 2 4; }
.chart .faded { opacity: .4; }
.chart .best polyline { stroke-width: 3.5; }
.chart .best circle { stroke: var(--ink); stroke-width: 2; }
.chart .best text { fill: var(--ink); font-weight: 600; }
.chart g:hover { opacity: 1; }
.chart g:hover polyline { stroke-width: 4; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: .4rem 0 0; padding: 0;
  list-style: none; color: var(--soft); font-size: .85rem; }
.legend li::before { content: ""; display: inline-block; width: .9em; height: .28em;
  margin-right: .4em; vertical-align: middle; background: var(--c); border-radius: 2px; }
.bars { align-items: center; }
.bars b { display: inline-block; width: calc(var(--share) * (100% - 5rem)); height: .8rem;
  margin-right: .5rem; background: var(--s0); border-radius: 0 2px 2px 0; }
@media (max-width: 44rem) { .chart { min-width: 34rem; } }
"""
SERIES = 8
PLAIN = "var(--s0)"

# Of the drawing, in pixels of a screen.
WIDTH, HEIGHT = 760, 340
TOP, FLOOR, RIGHT = 30, 290, 16
CHARACTER = 7.2  # width of a digit
INSET = 8  # between the frame and what is nearest to it
CROSS = 4


class Line(NamedTuple):
    """One line of a chart.

    Attributes:
        name: What a pointer on it is told.
        points: What it goes through, in order; those that are no numbers are left out.
        color: CSS.
        kind: ``faded``, ``best`` or nothing.
        broken_off: Whether a cross marks its end.
    """

    name: str
    points: Sequence[tuple[float, float]]
    color: str = PLAIN
    kind: str = ""
    broken_off: bool = False


class Dot(NamedTuple):
    """One dot of a chart.

    Attributes:
        name: What a pointer on it is told.
        x: Where it is.
        y: Where it is.
        color: CSS.
        kind: ``faded``, ``best`` or nothing.
        label: Text beside it.
    """

    name: str
    x: float
    y: float
    color: str = PLAIN
    kind: str = ""
    label: str = ""


class Axes(NamedTuple):
    """Where values lie in the drawing."""

    x: Scale
    y: Scale
    left: float

    def place(self, x: float, y: float) -> tuple[float, float] | None:
        """Pixels of a point; None if it is not on the axes."""
        if not (self.x.holds(x) and self.y.holds(y)):
            return None
        return self.across(self.x.at(x)), self.up(self.y.at(y))

    def across(self, share: float) -> float:
        """Pixels from the left."""
        return self.left + INSET + share * (WIDTH - RIGHT - self.left - 2 * INSET)

    def up(self, share: float) -> float:
        """Pixels from the top."""
        return FLOOR - INSET - share * (FLOOR - TOP - 2 * INSET)


def series(number: int) -> str:
    """The colour of one kind of many; after ``SERIES`` they repeat."""
    return f"var(--s{number % SERIES})"


def shade(share: float) -> str:
    """A colour for an amount: strong at 0, pale at 1."""
    return f"color-mix(in oklab, var(--good), var(--poor) {100 * share:.0f}%)"


def legend(colors: Mapping[str, str]) -> str:
    """What colours mean.

    Args:
        colors: CSS by name.
    """
    entries = (f'<li style="--c: {color}">{escape(name)}</li>' for name, color in colors.items())
    return f'<ul class="legend">{"".join(entries)}</ul>'


def bars(shares: Mapping[str, float]) -> str:
    """A bar for each name, as long as its share of 1; a negative one has no length."""
    rows = (
        f'<dt>{escape(name)}</dt><dd><b style="--share: {min(1, max(0, share)):.3f}"></b>'
        f"{share:.2f}</dd>"
        for name, share in shares.items()
    )
    return f'<dl class="bars">{"".join(rows)}</dl>'


def chart(
    x: str,
    y: str,
    lines: Sequence[Line] = (),
    dots: Sequence[Dot] = (),
    verticals: Mapping[str, float] | None = None,
) -> str:
    """Draw lines and dots, the later ones over the earlier.

    Args:
        x: What is on the horizontal axis, with its unit.
        y: What is on the vertical axis, which is logarithmic where values are far apart.
        lines: What is drawn.
        dots: What is drawn over them.
        verticals: Where dashed lines stand, by what stands above them.

    Returns:
        SVG that needs ``STYLE``.
    """
    verticals = verticals or {}
    points = [*chain.from_iterable(line.points for line in lines), *(dot[1:3] for dot in dots)]
    x_scale = fit([*(point[0] for point in points), *verticals.values()], log=False)
    y_scale = fit(point[1] for point in points)
    widest = max(len(text) for _, text in y_scale.ticks())
    axes = Axes(x_scale, y_scale, CHARACTER * widest + 10)
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(y)} by {escape(x)}">'
        + "".join(_frame(axes))
        + text(0, 12, y + (", logarithmic" if y_scale.log else ""))
        + text((axes.left + WIDTH - RIGHT) / 2, HEIGHT - 8, x, "middle")
        + "".join(_rungs(axes, verticals))
        + "".join(_line(axes, line) for line in lines)
        + "".join(_dot(axes, dot) for dot in dots)
        + "</svg>"
    )


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    """Words in a drawing."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def polyline(points: Sequence[tuple[float, float]]) -> str:
    """A line through pixels."""
    return f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'


def group(name: str, color: str, kind: str, content: str) -> str:
    """Shapes of one colour, and what a pointer on them is told."""
    return f'<g class="{kind}" style="--c: {color}"><title>{escape(name)}</title>{content}</g>'


def _frame(axes: Axes) -> Iterator[str]:
    for share, label in axes.y.ticks():
        y = axes.up(share)
        yield f'<line x1="{axes.left:.1f}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield text(axes.left - 6, y + 4, label, "end")
    for share, label in axes.x.ticks():
        yield text(axes.across(share), FLOOR + 16, label, "middle")


def _rungs(axes: Axes, verticals: Mapping[str, float]) -> Iterator[str]:
    for name, value in verticals.items():
        x = axes.across(axes.x.at(value))
        yield f'<line class="rung" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{FLOOR}"/>'
        yield text(x, TOP - 4, name, "middle")


def _line(axes: Axes, line: Line) -> str:
    placed = [place for point in line.points if (place := axes.place(*point))]
    if not placed:
        return ""
    end_x, end_y = placed[-1]
    shapes = polyline(placed)
    if line.broken_off:
        shapes += (
            f'<path d="M{end_x - CROSS:.1f} {end_y - CROSS:.1f}l{2 * CROSS} {2 * CROSS}'
            f'm0 {-2 * CROSS}l{-2 * CROSS} {2 * CROSS}"/>'
        )
    elif len(placed) == 1:  # a line of one point is nothing to see
        shapes += f'<circle cx="{end_x:.1f}" cy="{end_y:.1f}" r="3"/>'
    return group(line.name, line.color, line.kind, shapes)


def _dot(axes: Axes, dot: Dot) -> str:
    placed = axes.place(dot.x, dot.y)
    if placed is None:
        return ""
    x, y = placed
    shapes = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
    if dot.label:
        left = x > WIDTH / 2
        shapes += text(x - 9 if left else x + 9, y + 4, dot.label, "end" if left else "start")
    said = f"{dot.name}: {brief(dot.x)}, {brief(dot.y)}"
    return group(said, dot.color, dot.kind, shapes)
