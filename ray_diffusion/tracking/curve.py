"""The loss curve of a run, drawn from its spool: no tracking server is asked."""

import io
from pathlib import Path
from typing import Any

from ray_diffusion.tracking.events import Points, decode

LOSSES: dict[str, dict[str, Any]] = {
    "train/loss": {"label": "training", "color": "#4878a8", "linewidth": 1.2},
    "val/loss": {"label": "validation", "color": "#d1605e", "linewidth": 1.8, "marker": "o"},
}
"""What is drawn and how; to draw another metric, name it here."""

WIDTH_PX, HEIGHT_PX, DPI = 900, 540, 100


def read_metrics(spool_path: Path) -> dict[str, list[tuple[int, float]]]:
    """All points of a spool, shipped or not, as (step, value) by name in order of steps.

    Args:
        spool_path: The log of a `ray_diffusion.tracking.spool.Spool`, which may be open elsewhere.
    """
    curves: dict[str, list[tuple[int, float]]] = {}
    with spool_path.open("rb") as log:
        for line in log:
            event = decode(line)
            if isinstance(event, Points):
                for name, value in event.metrics.items():
                    curves.setdefault(name, []).append((event.step, value))
    return curves


def plot_loss(spool_path: Path, title: str) -> bytes:
    """Draw the training and validation loss over the images seen.

    Args:
        spool_path: Where the points are.
        title: The run's name.

    Returns:
        A PNG of 900 x 540 pixels; nothing if there is nothing to draw.
    """
    metrics = read_metrics(spool_path)
    curves = {name: metrics[name] for name in LOSSES if name in metrics}
    if not curves:
        return b""
    # A Figure of its own instead of pyplot, which keeps global state and looks for a display.
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(WIDTH_PX / DPI, HEIGHT_PX / DPI), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, markersize=4, **LOSSES[name])
    if not any(value <= 0 for points in curves.values() for _, value in points):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")  # a run may span less than a decade
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold")
    axes.set_xlabel("images seen")
    axes.set_ylabel("loss")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", which="both", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    if len(curves) > 1:
        axes.legend(frameon=False)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()
