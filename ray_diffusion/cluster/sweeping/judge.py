"""The one that a sweep's trials report to, and that says which of them go on."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray_diffusion.cluster.sweeping.choosing import CHOOSERS
from ray_diffusion.cluster.sweeping.journal import Journal, State, Trial, trial_name
from ray_diffusion.cluster.sweeping.metering import budget_used
from ray_diffusion.cluster.sweeping.rungs import RULES
from ray_diffusion.config.sweep import Plan
from ray_diffusion.errors import StorageError
from ray_diffusion.storage import Directory, options

SAVE_PERIOD_S = 5.0
"""How exactly a budget is counted over kills."""


@dataclass(frozen=True)
class Task:
    """A trial that is to be trained.

    Attributes:
        name: The trial.
        number: Which trial of the search it is, from 0; None for one whose values are given.
        values: What it changes in the base; None if they are to be chosen.
        repeats: As of a ``Trial``.
    """

    name: str
    number: int | None = None
    values: Mapping[str, Any] | None = None
    repeats: str | None = None

    @classmethod
    def of_search(cls, number: int) -> "Task":
        """The number-th trial of a search."""
        return cls(trial_name(number), number)


@dataclass(frozen=True)
class News:
    """What is new of a sweep.

    Attributes:
        trials: All that have begun, by name.
        facts: What those that have a process now posted last, by name.
        seconds: What the sweep took, over all launches.
        stopping: Whether all trials are to save and stop.
        spent: Whether that is because the budget is spent.
        warnings: What trials warned of, not read before.
        left: Placement groups of workers that are gone, not read before.
        idle_s: Seconds since a trial told anything.
    """

    trials: Mapping[str, Trial]
    facts: Mapping[str, Mapping[str, Any]]
    seconds: float
    stopping: bool
    spent: bool
    warnings: list[str]
    left: list[Any]
    idle_s: float


class Judge:
    """Keeps the journal of a sweep, and compares its trials.

    An actor: whatever happens in a sweep happens here, one thing after the other.

    Args:
        plan: The sweep.
        home: URL of its directory.
        sweep: What the sweep is, as text.
        environment: Variables of the driver's environment; not to be printed.
    """

    def __init__(self, plan: Plan, home: str, sweep: str, environment: Mapping[str, str]) -> None:
        os.environ.update(environment)
        options.use(plan.base.run.storage_options)
        self._plan, self._journal = plan, Journal(Directory(home), sweep)
        chosen = [trial for trial in self._journal.trials.values() if trial.repeats is None]
        self._chooser = CHOOSERS[plan.sweep.method](plan, chosen)
        early = plan.sweep.early_terminate
        self._rule = RULES[early.type](early, plan.base.training.total_images)
        for name, images_seen, value in self._journal.told():
            self._goes_on(name, images_seen, value)
        self._facts: dict[str, Mapping[str, Any]] = {}  # of the trials that have a process now
        self._placed: dict[str, Any] = {}
        self._left: list[Any] = []
        self._warnings: list[str] = []
        self._stopping = False
        self._spent_at = self._saved_at = self._heard_at = time.monotonic()

    def begin(self, task: Task) -> Mapping[str, Any] | None:
        """A trial is about to train, maybe again after its process was lost.

        Returns:
            What it changes in the base; None if it is not to train.
        """
        self.leave(task.name)
        known = self._journal.trials.get(task.name)
        if self._stopping or (known is not None and known.over):
            return None
        values = known.values if known is not None else task.values
        if values is None:
            assert task.number is not None
            values = self._chooser.values(task.number)
        self._journal.begin(task.name, values, task.repeats)
        self._facts[task.name] = {}
        return values

    def placed(self, name: str, placement: Any) -> None:
        """The workers of a trial hold a placement group; one that they held before is left."""
        self._free(name)
        self._placed[name] = placement

    def report(self, name: str, images_seen: int, value: float) -> bool:
        """A trial was validated; whether it goes on."""
        self._heard_at = time.monotonic()
        trial = self._journal.trials[name]
        # Steps go by until a stop is heeded; after a loss a trial starts before its newest figure.
        if trial.over or images_seen in trial.curve:
            return not trial.over
        goes_on = self._goes_on(name, images_seen, value)
        self._spend()
        self._journal.report(name, images_seen, value, goes_on)
        if not goes_on:
            self._over(name)
        return goes_on

    def post(self, name: str, facts: Mapping[str, Any]) -> None:
        """A trial tells how it gets on."""
        self._heard_at = time.monotonic()
        if name in self._facts:  # else it has left, and this was on its way
            self._facts[name] = facts

    def warn(self, name: str, message: str) -> None:
        """A trial tells the user something that does not stop it."""
        self._warnings.append(f"{name}: {message}")

    def end(self, name: str, state: State, figures: Mapping[str, float], reason: str = "") -> None:
        """A trial is over; one that was stopped stays so, however far it came meanwhile."""
        trial, metric = self._journal.trials[name], self._plan.sweep.metric.name
        if trial.over:
            return
        self._spend()
        total = trial.total_images(self._plan.base)
        if metric in figures and trial.images_seen < total:  # known only now, or lost on its way
            self._goes_on(name, total, figures[metric])
            self._journal.report(name, total, figures[metric], True)
        self._journal.end(name, state, figures, reason)
        self._over(name)

    def leave(self, name: str) -> None:
        """The process of a trial is done with it, or was lost."""
        self._spend()
        self._facts.pop(name, None)
        self._free(name)

    def close(self) -> None:
        """All that has happened is in the report."""
        self._journal.close()

    def request_stop(self) -> None:
        """Have all trials save and stop, and no other one begin."""
        self._stopping = True

    def stopping(self) -> bool:
        """Whether all trials are to save and stop."""
        return self._stopping

    def read(self) -> News:
        """How the sweep stands; one whose budget is spent is told to stop."""
        journal, now = self._journal, self._spend()
        if now - self._saved_at >= SAVE_PERIOD_S:
            self._saved_at = now
            try:
                journal.save()
            except StorageError as error:  # each trial must write; these totals may wait
                self._warnings.append(str(error))
        used = budget_used(self._plan.sweep, journal.trials.values(), journal.seconds)
        spent = used is not None and used >= 1
        self._stopping = self._stopping or spent
        warnings, self._warnings = self._warnings, []
        left, self._left = self._left, []
        idle_s = now - self._heard_at
        return News(
            trials=journal.trials,
            facts=self._facts,
            seconds=journal.seconds,
            stopping=self._stopping,
            spent=spent,
            warnings=warnings,
            left=left,
            idle_s=idle_s,
        )

    def _goes_on(self, name: str, images_seen: int, value: float) -> bool:
        trial = self._journal.trials[name]
        if trial.repeats is not None:
            return True  # chosen already, and to be measured at its end
        goes_on = self._rule.goes_on(name, images_seen, value)
        # A coarse validation may come to the last rung at the end, where nothing is left to save.
        return goes_on or images_seen >= trial.total_images(self._plan.base)

    def _free(self, name: str) -> None:
        if name in self._placed:
            self._left.append(self._placed.pop(name))

    def _over(self, name: str) -> None:
        trial = self._journal.trials[name]
        if trial.repeats is None:
            self._chooser.tell(trial)

    def _spend(self) -> float:
        """Count the time that has gone by, for the trials that ran; the time now."""
        now = time.monotonic()
        self._journal.spend(now - self._spent_at, self._facts)
        self._spent_at = now
        return now
