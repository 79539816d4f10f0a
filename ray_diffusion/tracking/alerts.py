"""Alert rules for the metrics of runs and sweeps."""

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Alert:
    """A rule.

    Attributes:
        name: In CamelCase.
        expr: PromQL; has a value when something is wrong.
        hold: How long it must have one.
        severity: ``warning``, or ``critical`` where time is being lost.
        summary: What is wrong; ``$labels`` and ``$value`` as Prometheus has them.
        description: When the rule fires, and why it matters.
        action: What to do.
    """

    name: str
    expr: str
    hold: str
    severity: str
    summary: str
    description: str
    action: str


ALERTS = (
    Alert(
        "RayDiffusionNoStep",
        # The median over the life of the workers: a rate would be gone with the steps.
        "max by (run) (ray_diffusion_step_age_seconds) > clamp_min(5 * histogram_quantile(0.5, "
        "sum by (run, le) (ray_diffusion_step_seconds_bucket)), 120)",
        "1m",
        "critical",
        "{{ $labels.run }} has made no step for {{ $value | humanizeDuration }}",
        "No step for five times the median, and for at least two minutes. A long validation can be "
        "the reason; otherwise a worker hangs, or the driver is gone.",
        "Look at the driver's last lines. A worker that hangs is restarted after "
        "cluster.stall_timeout_s, and leaves what it was doing in stacks/ of the run's directory; "
        "if the driver is gone, the same command goes on.",
    ),
    Alert(
        "RayDiffusionCheckpointOld",
        "ray_diffusion_checkpoint_age_seconds > "
        "clamp_min(3 * ray_diffusion_checkpoint_interval_seconds, 120)",
        "1m",
        "warning",
        "The newest checkpoint of {{ $labels.run }} is {{ $value | humanizeDuration }} old",
        "Three intervals have gone by without a checkpoint: a failure now would lose that much.",
        "Look at how long checkpoints take on the dashboard. If the storage is slow, raise "
        "training.checkpoint_every_images; if none arrives, check the storage itself.",
    ),
    Alert(
        "RayDiffusionRestarts",
        "sum by (run) (increase(ray_diffusion_restarts_total[1h])) > 3",
        "0m",
        "warning",
        "The workers of {{ $labels.run }} were restarted {{ $value | humanize }} times in an hour",
        "More than three restarts in an hour: most of the time goes into starting again.",
        "See the reasons on the dashboard: drain, move to machines that stay; stall, read stacks/ "
        "of the run's directory; failure, read the driver's output.",
    ),
    Alert(
        "RayDiffusionNonfinite",
        "sum by (run) (increase(ray_diffusion_nonfinite_steps_total[1h])) > 0",
        "0m",
        "warning",
        "{{ $labels.run }} left out {{ $value | humanize }} steps in an hour, not finite",
        "Gradients were not finite. Such steps change nothing, but the next may not recover.",
        "If it goes on, start again under another run.name with a lower optim.lr, a longer "
        "optim.warmup_images or training.precision=fp32.",
    ),
    Alert(
        "RayDiffusionDataWait",
        "sum by (run) (rate(ray_diffusion_data_wait_seconds_total[10m])) > 0.3",
        "5m",
        "warning",
        "{{ $labels.run }} waits for data {{ $value | humanizePercentage }} of the time",
        "Training is held up by reading, not by arithmetic.",
        "Raise data.workers, give workers more cluster.cpus_per_worker, or let more of the data "
        "fit into data.cache_bytes.",
    ),
    Alert(
        "RayDiffusionTrackingBacklog",
        "min_over_time(ray_diffusion_tracking_backlog_points[10m]) > 0 "
        "and delta(ray_diffusion_tracking_backlog_points[10m]) > 0",
        "5m",
        "warning",
        "MLflow lags {{ $value | humanize }} points or more behind {{ $labels.run }}",
        "Points have been piling up for 15 minutes. Nothing is lost: they wait on local disk.",
        "Check MLflow and the way to it, see tracking.uri. What is left at the end is shipped by "
        "sync or the same command.",
    ),
    Alert(
        "RayDiffusionSweepStands",
        "max by (run) (ray_diffusion_sweep_progress_age_seconds) > 300 "
        'and sum by (run) (ray_diffusion_sweep_trials{state=~"waiting|running"}) > 0',
        "1m",
        "warning",
        "No trial of {{ $labels.run }} has come further for {{ $value | humanizeDuration }}",
        "Trials wait or run, and for five minutes none has begun, come further or ended. Long "
        "validations can be the reason; otherwise the cluster has no room, or trials hang.",
        "Compare what a trial asks for, resources in the sweep's file, with what `ray status` says "
        "is free. If trials hang, press Ctrl-C once; the same command goes on.",
    ),
)


def rules() -> str:
    """The alerts as a PrometheusRule of the Prometheus operator, in YAML."""
    lines = [
        "# Written by `make monitoring`; change ray_diffusion/tracking/alerts.py.",
        "apiVersion: monitoring.coreos.com/v1",
        "kind: PrometheusRule",
        "metadata:",
        "  name: ray-diffusion",
        "spec:",
        "  groups:",
        "    - name: ray-diffusion",
        "      rules:",
    ]
    for alert in ALERTS:
        lines += [
            f"        - alert: {alert.name}",
            # JSON's strings are YAML's, whatever is in them.
            f"          expr: {json.dumps(alert.expr)}",
            f"          for: {alert.hold}",
            "          labels:",
            f"            severity: {alert.severity}",
            "          annotations:",
            f"            summary: {json.dumps(alert.summary)}",
            f"            description: {json.dumps(alert.description)}",
            f"            action: {json.dumps(alert.action)}",
        ]
    return "\n".join([*lines, ""])
