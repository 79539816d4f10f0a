"""A sweep's curves and its qualities as pictures, beside its report."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH_PX, HEIGHT_PX, DPI = 900, 540, 100
INK, BEST, SOFT = "#4878a8", "#d1605e", "#b0b8c0"
DECADE = 10


def plot_rungs(
    title: str,
    metric: str,
    curves: Mapping[str, Mapping[int, float]],
    stopped: Sequence[str],
    rungs: Sequence[int],
    best: str | None,
) -> bytes:
    """Draw the metric of each trial over the images seen.

    Args:
        title: The sweep's name.
        metric: The figure's name.
        curves: Its values by images seen, of each trial.
        stopped: Names of trials that ended early; they are drawn pale with a cross at their end.
        rungs: Images seen at which trials are judged.
        best: The trial that is drawn over all others.

    Returns:
        A PNG of 900 x 540 pixels; nothing if there is nothing to draw.
    """
    drawn = {name: sorted(curve.items()) for name, curve in curves.items() if curve}
    if not drawn:
        return b""
    figure, axes = _axes(title, "images seen", metric)
    for rung in rungs:
        axes.axvline(rung, color=SOFT, linewidth=0.8, linestyle=":")
    for name in sorted(drawn, key=lambda name: name == best):
        seen, values = zip(*drawn[name], strict=True)
        marks = {"marker": "x", "markevery": [-1], "alpha": 0.4} if name in stopped else {}
        if name == best:
            marks = {"color": BEST, "linewidth": 2.4, "label": name}
        axes.plot(seen, values, **{"color": INK, "linewidth": 1.2, **marks})
    if best in drawn:
        axes.legend(frameon=False)
    return _png(figure, axes, [value for curve in drawn.values() for _, value in curve])


def plot_quality(
    title: str, quality: str, points: Mapping[str, tuple[float, float]], best: str | None
) -> bytes:
    """Draw how good each trial became against how long it took.

    Args:
        title: The sweep's name.
        quality: The figure's name.
        points: Seconds and the figure, of each trial.
        best: The trial that stands out.

    Returns:
        A PNG of 900 x 540 pixels; nothing if there is nothing to draw.
    """
    drawn = {name: point for name, point in points.items() if all(map(math.isfinite, point))}
    if not drawn:
        return b""
    figure, axes = _axes(title, "seconds", quality)
    for name, (seconds, value) in drawn.items():
        axes.plot(seconds, value, "o", color=BEST if name == best else INK)
        axes.annotate(name, (seconds, value), (5, 4), textcoords="offset points", fontsize=8)
    return _png(figure, axes, [value for _, value in drawn.values()])


def _axes(title: str, x: str, y: str) -> tuple[Any, Any]:
    # A Figure of its own instead of pyplot, which keeps global state and looks for a display.
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(WIDTH_PX / DPI, HEIGHT_PX / DPI), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _png(figure: Any, axes: Any, values: Sequence[float]) -> bytes:
    """The picture; its vertical axis is logarithmic where values are far apart."""
    finite = [value for value in values if math.isfinite(value)]
    if finite and min(finite) > 0 and max(finite) > DECADE * min(finite):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()
