"""What a sweep has come to in figures, and what of that Prometheus is told."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args

from ray_diffusion.cluster.sweeping.findings import Findings
from ray_diffusion.cluster.sweeping.journal import Trial
from ray_diffusion.config.sweep import Sweep
from ray_diffusion.tracking.metrics import Report

Standing = Literal["running", "waiting", "finished", "stopped", "failed"]
Facts = Mapping[str, Mapping[str, Any]]
"""What each trial that has trained in this launch posted last, by its name."""


def standing(trial: Trial, facts: Facts) -> Standing:
    """A trial's state; one that is not over and has not trained in this launch yet is waiting."""
    return trial.state if trial.over or trial.name in facts else "waiting"


def standings(findings: Findings, facts: Facts) -> dict[Standing, int]:
    """How many trials stand how, with those that have not begun and those of the confirmation."""
    counts = Counter(standing(trial, facts) for trial in findings.trials)
    counts["waiting"] += findings.plan.num_trials - len(findings.chosen)
    return {name: counts[name] for name in get_args(Standing)}


def device_hours(sweep: Sweep, trials: Iterable[Trial]) -> dict[str, float]:
    """Hours that trials held devices, by kind: ``CPU`` and ``GPU``."""
    given = sweep.resources
    hours = given.num_workers * sum(trial.seconds for trial in trials) / 3600
    return {"CPU": hours * given.cpus_per_worker, "GPU": hours * given.gpus_per_worker}


def budget_used(sweep: Sweep, trials: Iterable[Trial], seconds: float) -> float | None:
    """How much of a sweep's budget is used up.

    Args:
        sweep: The sweep.
        trials: All of its trials.
        seconds: What it took so far.

    Returns:
        The larger share of hours and GPU hours, 1 or more when nothing is left; None without a
        budget.
    """
    budget = sweep.budget
    gpu_hours = device_hours(sweep, trials)["GPU"]
    used = [(seconds / 3600, budget.hours), (gpu_hours, budget.gpu_hours)]
    return max((hours / limit for hours, limit in used if limit is not None), default=None)


def saved_share(findings: Findings) -> float:
    """Share of the images so far that trials were not trained on, because they were stopped."""
    return findings.images_saved / max(1, findings.images_saved + findings.images_trained)


class SweepMeter:
    """Measures a sweep, from one look at it to the next.

    Args:
        clock: The Unix time.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock, self._progressed_at = clock, clock()
        self._seen: Mapping[str, tuple[Standing, int]] = {}

    def report(self, findings: Findings, facts: Facts) -> Report:
        """What Prometheus is to be told.

        Args:
            findings: What the sweep has found so far.
            facts: What its trials posted.
        """
        seen = {
            trial.name: (
                standing(trial, facts),
                max(trial.images_seen, facts.get(trial.name, {}).get("images_seen", 0)),
            )
            for trial in findings.trials
        }
        if seen != self._seen:
            self._seen, self._progressed_at = seen, self._clock()
        own = {
            "sweep_progress_age_seconds": self._progressed_at,
            "sweep_images_saved_ratio": saved_share(findings),
        }
        best = findings.winner
        if best is not None and best.value is not None:
            own["sweep_best_objective"] = best.value
        used = budget_used(findings.plan.sweep, findings.trials, findings.seconds)
        if used is not None:
            own["sweep_budget_used_ratio"] = used
        counts = standings(findings, facts).items()
        return [({}, own), *(({"state": name}, {"sweep_trials": n}) for name, n in counts)]
