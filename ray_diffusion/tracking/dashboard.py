"""A Grafana dashboard of the metrics of runs and sweeps: one row to each of `families.ROWS`."""

import json
from collections.abc import Iterator
from typing import Any

from ray_diffusion.tracking.families import PREFIX, ROWS, Family

CHOSEN = '{run=~"$run"}'  # the runs that are chosen at the top of the dashboard
PRESENT = ("world_size", "sweep_trials")  # what there is of every run, and of every sweep
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
SCHEMA_VERSION = 41  # of Grafana 11.6 and 12, and newer ones lift it
COLUMNS, PANEL_WIDTH, PANEL_HEIGHT = 24, 8, 7


def queries(family: Family) -> dict[str, str]:
    """What shows a family, in PromQL by legend.

    Args:
        family: The family.

    Returns:
        The median and the 99th percentile of a histogram; of a counter of seconds the share of
        time, as seconds a second; else the value.
    """
    name = PREFIX + family.name
    if family.kind == "histogram":
        rate = f"sum by (run, le) (rate({name}_bucket{CHOSEN}[$__rate_interval]))"
        return {
            "{{run}} median": f"histogram_quantile(0.5, {rate})",
            "{{run}} 99 %": f"histogram_quantile(0.99, {rate})",
        }
    legend = " ".join(f"{{{{{label}}}}}" for label in family.labels)
    if family.kind == "counter" and family.unit == "s":
        return {legend: f"rate({name}{CHOSEN}[$__rate_interval])"}
    return {legend: f"{name}{CHOSEN}"}


def _panel(number: int, family: Family, x: int, y: int) -> dict[str, Any]:
    share = family.kind == "counter" and family.unit == "s"
    return {
        "id": number,
        "type": "timeseries",
        "title": family.name.removesuffix("_total").replace("_", " "),
        "description": f"{family.help} {'Shown as a share of time.' if share else ''}".strip(),
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": PANEL_WIDTH, "h": PANEL_HEIGHT},
        "fieldConfig": {
            "defaults": {"unit": "percentunit" if share else family.unit},
            "overrides": [],
        },
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
            for i, (legend, expr) in enumerate(queries(family).items())
        ],
    }


def _panels() -> Iterator[dict[str, Any]]:
    """Rows of panels, one panel to each family."""
    number, y = 0, 0
    for row, families in ROWS.items():
        number, x = number + 1, 0
        position = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        yield {"id": number, "type": "row", "title": row, "collapsed": False, "panels": []} | {
            "gridPos": position
        }
        y += 1
        for family in families:
            if x == COLUMNS:
                x, y = 0, y + PANEL_HEIGHT
            number += 1
            yield _panel(number, family, x, y)
            x += PANEL_WIDTH
        y += PANEL_HEIGHT


def dashboard() -> str:
    """A Grafana dashboard of all families, in JSON."""
    present = "|".join(PREFIX + name for name in PRESENT)
    runs = f'label_values({{__name__=~"{present}"}}, run)'
    variables = [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
        {
            "name": "run",
            "type": "query",
            "datasource": SOURCE,
            "query": {"query": runs, "refId": "run"},
            "refresh": 2,  # whenever the time range changes
            "includeAll": True,
            "multi": True,
            "current": {"text": "All", "value": "$__all"},
        },
    ]
    board = {
        "uid": "ray-diffusion",
        "title": "ray_diffusion",
        "tags": ["ray_diffusion"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "graphTooltip": 1,  # one cursor in all panels
        "templating": {"list": variables},
        "annotations": {"list": []},
        "panels": list(_panels()),
    }
    return json.dumps(board, indent=1) + "\n"
