"""How the values of metrics get from the processes that know them to Prometheus.

::

    Meter.snapshot(), in each process ──► their list, a report ──► expose() ──► /metrics

A snapshot holds absolute values, so a report that is lost loses nothing, and a server that was
restarted shows what it should after the next one. Names that a server does not know it leaves out:
it may be older than the run.
"""

import bisect
import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from ray_diffusion.tracking.families import FAMILIES, PREFIX, Family


class Distribution(TypedDict):
    """A histogram in a snapshot."""

    buckets: dict[str, int]
    """Observations up to each upper bound, by the bound; the last is ``+Inf``."""
    sum: float


Snapshot = Mapping[str, float | Distribution]
"""Values by name of family, without the prefix; of an age the Unix time from which it counts."""

Report = Sequence[tuple[Mapping[str, str], Snapshot]]
"""The snapshots of all processes of a run, each with the labels that tell them apart."""


class Meter:
    """Keeps and counts values in the process that knows them, from any of its threads.

    A name that is not in ``FAMILIES`` is a KeyError.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, float] = {}
        self._counts: dict[str, list[int]] = {}
        self._mutex = threading.Lock()

    def set(self, name: str, value: float) -> None:
        """Replace a value; that of an age is the Unix time from which it counts."""
        with self._mutex:
            self._numbers[FAMILIES[name].name] = value

    def add(self, name: str, amount: float) -> None:
        """Add to a counter."""
        with self._mutex:
            self._numbers[FAMILIES[name].name] = self._numbers.get(name, 0.0) + amount

    def observe(self, name: str, value: float) -> None:
        """Add an observation to a histogram."""
        bounds = FAMILIES[name].buckets
        with self._mutex:
            counts = self._counts.setdefault(name, [0] * (len(bounds) + 1))
            counts[bisect.bisect_left(bounds, value)] += 1  # a bound belongs to its bucket
            self._numbers[name] = self._numbers.get(name, 0.0) + value

    def snapshot(self) -> Snapshot:
        """All values, as they are now."""
        with self._mutex:
            return self._numbers | {
                name: _distribution(FAMILIES[name].buckets, counts, self._numbers[name])
                for name, counts in self._counts.items()
            }


def _distribution(bounds: Iterable[float], counts: Iterable[int], total: float) -> Distribution:
    buckets, seen = {}, 0
    for bound, count in zip((*bounds, math.inf), counts, strict=True):
        seen += count
        buckets["+Inf" if bound == math.inf else repr(float(bound))] = seen
    return {"buckets": buckets, "sum": total}


class RunState(NamedTuple):
    """What is known of a run.

    Attributes:
        report: The newest.
        ended_at: The Unix time at which it ended, and its ages stand still; None while it goes on.
    """

    report: Report
    ended_at: float | None


_METRICS: Mapping[str, Any] = {
    "gauge": GaugeMetricFamily,
    "age": GaugeMetricFamily,
    "counter": CounterMetricFamily,
    "histogram": HistogramMetricFamily,
}


def expose(runs: Mapping[str, RunState], now: float) -> Iterator[Metric]:
    """The metrics of some runs, as a collector of prometheus_client yields them.

    Args:
        runs: By name.
        now: The Unix time.

    Yields:
        Each family that has a value.
    """
    for family in FAMILIES.values():
        metric = _METRICS[family.kind](PREFIX + family.name, family.help, labels=family.labels)
        for run, state in runs.items():
            for labels, value in _series(family, run, state.report).items():
                if isinstance(value, dict):
                    metric.add_metric(labels, list(value["buckets"].items()), value["sum"])
                elif family.kind == "age":
                    metric.add_metric(labels, max(0.0, (state.ended_at or now) - value))
                else:
                    metric.add_metric(labels, value)
        if metric.samples:
            yield metric


def _series(family: Family, run: str, report: Report) -> dict[tuple[str, ...], Any]:
    """The values of a family by the values of its labels."""
    found = {}
    for labels, snapshot in report:
        labels = {**labels, "run": run}
        if family.name in snapshot and labels.keys() >= set(family.labels):
            found[tuple(labels[name] for name in family.labels)] = snapshot[family.name]
    return found
