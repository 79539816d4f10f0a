"""The families of metrics that Prometheus is told of a run, or of a sweep, by its name as ``run``.

To add one, write it into its row and feed a `ray_diffusion.tracking.metrics.Meter` where it is
known; the dashboard and the table in ``docs/operations.md`` follow (`make monitoring`).
"""

from dataclasses import dataclass
from typing import Literal

PREFIX = "ray_diffusion_"

# Three to a decade: a quantile is then right within a factor of 1.6.
STEP_BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
CHECKPOINT_BUCKETS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

RUN, WORKER, RESTART, TRIAL = ("run",), ("run", "rank"), ("run", "reason"), ("run", "state")


@dataclass(frozen=True)
class Family:
    """A metric.

    Attributes:
        name: Without the prefix.
        kind: Prometheus' kind. An age is a gauge of seconds that are counted when it is read.
        unit: As Grafana names it.
        help: What it is, with the unit, in a sentence.
        labels: Which labels its series carry. Of those that have ``run`` alone, one process
            measures them for all.
        buckets: The upper bounds of a histogram, without the infinite one.
    """

    name: str
    kind: Literal["gauge", "counter", "histogram", "age"]
    unit: Literal["short", "s", "percentunit", "decbytes", "h"]
    help: str
    labels: tuple[str, ...] = RUN
    buckets: tuple[float, ...] = ()


ROWS = {
    "training": (
        Family("images_total", "counter", "short", "Images seen, at the furthest."),
        Family("images_per_second", "gauge", "short", "Speed of all workers together."),
        Family(
            "step_seconds",
            "histogram",
            "s",
            "Time from step to step in seconds, with whatever stood between them.",
            buckets=STEP_BUCKETS_S,
        ),
        Family("step_age_seconds", "age", "s", "Seconds since the worker began a step.", WORKER),
        Family("loss", "gauge", "short", "Mean training loss since the point before."),
        Family("grad_norm", "gauge", "short", "Norm of the gradient before clipping."),
        Family("lr", "gauge", "short", "Learning rate."),
        Family("ema_decay", "gauge", "short", "Share of the averaged weights that a step keeps."),
        Family(
            "nonfinite_steps_total",
            "counter",
            "short",
            "Steps left out because their gradient was not finite.",
        ),
        Family("mfu", "gauge", "percentunit", "Share of the devices' peak that the network takes."),
    ),
    "data": (
        Family(
            "data_wait_seconds_total",
            "counter",
            "s",
            "Seconds that the first worker waited for data.",
        ),
    ),
    "checkpoints": (
        Family(
            "checkpoint_age_seconds",
            "age",
            "s",
            "Seconds since the newest checkpoint, or since the workers started.",
        ),
        Family(
            "checkpoint_interval_seconds",
            "gauge",
            "s",
            "Seconds between checkpoints, as configured and at the present speed.",
        ),
        Family(
            "checkpoint_seconds",
            "histogram",
            "s",
            "Time to publish a checkpoint in seconds; training goes on meanwhile.",
            buckets=CHECKPOINT_BUCKETS_S,
        ),
        Family(
            "checkpoint_bytes",
            "gauge",
            "decbytes",
            "Size of the newest checkpoint in bytes, of a sharded one the first worker's share.",
        ),
    ),
    "tracking": (
        Family(
            "tracking_backlog_points", "gauge", "short", "Points that MLflow does not have yet."
        ),
        Family(
            "tracking_errors_total",
            "counter",
            "short",
            "Failed tries to reach MLflow or to write to the spool.",
        ),
        Family(
            "tracking_seconds_total",
            "counter",
            "s",
            "Seconds that recording has kept training and the saving of checkpoints.",
        ),
    ),
    "machines": (
        Family("world_size", "gauge", "short", "Workers that train."),
        Family(
            "restarts_total",
            "counter",
            "short",
            "Restarts of the workers by reason: failure, stall, drain or resize.",
            RESTART,
        ),
        Family("gpu_hours_total", "counter", "h", "Hours that GPUs were held, in this launch."),
        Family(
            "cpu_utilization_ratio",
            "gauge",
            "percentunit",
            "Share of the CPUs of the worker's node that is busy.",
            WORKER,
        ),
        Family(
            "memory_used_bytes", "gauge", "decbytes", "Memory used on the worker's node.", WORKER
        ),
        Family(
            "gpu_utilization_ratio",
            "gauge",
            "percentunit",
            "Share of time that the GPUs of the worker's node are busy, their mean.",
            WORKER,
        ),
        Family(
            "gpu_memory_used_bytes",
            "gauge",
            "decbytes",
            "Memory used on all GPUs of the worker's node.",
            WORKER,
        ),
    ),
    "sweep": (
        Family(
            "sweep_trials",
            "gauge",
            "short",
            "Trials of a sweep by state: waiting, running, finished, stopped or failed.",
            TRIAL,
        ),
        Family(
            "sweep_best_objective",
            "gauge",
            "short",
            "The sweep's metric of the best trial that has finished.",
        ),
        Family(
            "sweep_progress_age_seconds",
            "age",
            "s",
            "Seconds since a trial last began, came further or ended.",
        ),
        Family(
            "sweep_images_saved_ratio",
            "gauge",
            "percentunit",
            "Share of the trials' images so far that stopping early has saved.",
        ),
        Family(
            "sweep_budget_used_ratio",
            "gauge",
            "percentunit",
            "Share of the sweep's budget that is used up, if it has one.",
        ),
    ),
}
"""All families, in the rows of the dashboard."""

FAMILIES = {family.name: family for row in ROWS.values() for family in row}
