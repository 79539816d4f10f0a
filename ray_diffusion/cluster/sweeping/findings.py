"""What a sweep has found: all that its report, its last lines and its MLflow run say."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from ray_diffusion.cluster.sweeping.journal import Trial, ranked
from ray_diffusion.cluster.sweeping.rungs import RULES
from ray_diffusion.config.sweep import Plan
from ray_diffusion.errors import UsageError
from ray_diffusion.evaluation.verdict import Verdict
from ray_diffusion.storage import Directory

SAMPLER = "sampler."  # keys of drawing

TRAINED = "trained"
"""The directory of the one model that all trials draw from, where they differ in that alone."""


@dataclass(frozen=True)
class Findings:
    """What a sweep has found so far.

    Attributes:
        plan: The sweep.
        home: Its directory; each trial's is below it.
        trials: All that have begun, those of the confirmation too.
        verdict: Which of the best trials is best over several seeds; None without a confirmation.
        seconds: What the sweep took, over all launches.
        command: What starts it, and goes on with it.
        left: How many trials are to be trained next.
    """

    plan: Plan
    home: Directory
    trials: Sequence[Trial]
    verdict: Verdict | None
    seconds: float
    command: str
    left: int = 0

    @property
    def chosen(self) -> list[Trial]:
        """The trials of the search without those of the confirmation, the best first."""
        own = [trial for trial in self.trials if trial.repeats is None]
        return ranked(own)

    @property
    def finished(self) -> list[Trial]:
        """Those of them that have finished."""
        return [trial for trial in self.chosen if trial.state == "finished"]

    @property
    def winner(self) -> Trial | None:
        """The best trial: of the confirmation if there was one; None if none has its figure."""
        if self.verdict is None:
            return next((trial for trial in self.finished if trial.value is not None), None)
        best = self.verdict.candidates[0].name
        return next(trial for trial in self.finished if trial.name == best)

    def model(self, trial: Trial) -> str:
        """What ``sample`` and ``evaluate`` take for the model of a trial, in words for a shell."""
        if not self.plan.trains_once:
            return shlex.quote((self.home / trial.name).url)
        drawn = {key.removeprefix(SAMPLER): value for key, value in trial.values.items()}
        words = (f"{key}={value}" for key, value in drawn.items() if key != "run.seed")
        return shlex.join([(self.home / TRAINED).url, *words])

    def promoting(self, alias: str) -> list[str]:
        """What ``evaluate`` takes to promote the winner, if there is one."""
        if self.winner is None:
            raise UsageError("promote: no trial has finished")
        name = self.plan.base.tracking.registered_model or self.plan.sweep.name
        count = self.plan.sweep.confirm.num_images
        asked = [f"promote={alias}", f"registered_model={name}", f"num_images={count}"]
        return [*shlex.split(self.model(self.winner)), *asked]

    @property
    def rungs(self) -> Sequence[int]:
        """Images seen at which the trials of the search are judged."""
        early = self.plan.sweep.early_terminate
        return RULES[early.type](early, self.plan.base.training.total_images).rungs

    @property
    def images_trained(self) -> int:
        """Images that the search has trained on, without the confirmation's."""
        if self.plan.trains_once:
            return self.plan.base.training.total_images
        return sum(trial.images_seen for trial in self.chosen)

    def total_images(self, trial: Trial) -> int:
        """Images that a trial is trained on if nothing stops it."""
        return trial.total_images(self.plan.base)

    @property
    def images_saved(self) -> int:
        """Images that the stopped trials were not trained on."""
        stopped = [trial for trial in self.chosen if trial.state == "stopped"]
        return sum(self.total_images(trial) - trial.images_seen for trial in stopped)
