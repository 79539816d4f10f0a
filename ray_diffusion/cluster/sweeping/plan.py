"""All that can be checked and counted of a sweep before a cluster is asked for anything."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ray_diffusion import config as configs
from ray_diffusion.cluster.plan import Plan as Base
from ray_diffusion.cluster.plan import oddities, prepare
from ray_diffusion.cluster.sweeping import confirm
from ray_diffusion.cluster.sweeping.findings import Findings
from ray_diffusion.cluster.sweeping.journal import FILE, Journal, Trial, trial_name
from ray_diffusion.cluster.sweeping.judge import Task
from ray_diffusion.config.sweep import Plan
from ray_diffusion.data.manifest import read_manifest
from ray_diffusion.data.packing.embedded import SCHEME
from ray_diffusion.errors import ConfigError, warn
from ray_diffusion.storage import absolute
from ray_diffusion.tracking.environment import Lineage
from ray_diffusion.tracking.identity import sqlite_path

SCHEDULE = "diffusion."  # keys of it
DATASET, PIXELS = "data.dataset_url", "pixels"


@dataclass(frozen=True)
class Sweeping:
    """A sweep that can start.

    Attributes:
        plan: The sweep.
        base: The run that stands for it: what all trials differ from, in the sweep's directory.
        made_with: What it is made with.
        text: The sweep's file.
        command: What starts it, and goes on with it.
    """

    plan: Plan
    base: Base
    made_with: Lineage = field(repr=False)
    text: str = field(repr=False)
    command: str

    def describe(self) -> str:
        """The plan in a few lines for a person."""
        sweep, base, config = self.plan.sweep, self.base, self.base.config
        early, budget, given = sweep.early_terminate, sweep.budget, sweep.resources
        total = config.training.total_images
        rules = {
            "asha": f"stopped unless among the best 1 of {early.eta} at a rung",
            "median": "stopped where worse than the median of the others",
            "none": "none is stopped early",
        }
        grace = f", from {early.grace:.0%} on" if early.type != "none" else ""
        limits = {"hours": budget.hours, "GPU hours": budget.gpu_hours}
        kinds = {"CPU": given.cpus_per_worker, "GPU": given.gpus_per_worker}
        each = " and ".join(f"{n:g} {kind}{'s' if n > 1 else ''}" for kind, n in kinds.items() if n)
        workers = f"{given.num_workers} workers with {each} each"
        top, again, images = sweep.confirm.top, sweep.confirm.seeds, sweep.confirm.num_images
        seeds = "one more seed" if again == 1 else f"{again} more seeds"
        by = f"{confirm.DECIDES} of {images} images" if self.plan.draws else sweep.metric.name
        rows = {
            "sweep": f"{sweep.name}, in {base.run.url}",
            "base": f"{sweep.base}: {config.model.kind} of {base.parameters:,} parameters, "
            f"{base.train_images:,} training images of {config.data.dataset_url}",
            "trials": f"{self.plan.num_trials} ({sweep.method}) over {', '.join(self.plan.space)}",
            "each": f"{total:,} images, {workers if given.num_workers > 1 else each}",
            "judged": f"by {sweep.metric.name}; {rules[early.type]}{grace}",
            "confirmed": f"the best {top} with {seeds}, by {by}" if top else "",
            "budget": ", ".join(f"{value:g} {name}" for name, value in limits.items() if value),
            "tracking": f"{base.identity.shown_uri}, experiment {config.tracking.experiment}",
        }
        return "\n".join(f"{name:<10} {text}" for name, text in rows.items() if text)

    def findings(self, trials: Mapping[str, Trial], seconds: float) -> Findings:
        """What it has found."""
        own, left = list(trials.values()), len(tasks(self.plan, trials))
        verdict = confirm.judge(own, self.plan)
        return Findings(self.plan, self.base.run, own, verdict, seconds, self.command, left)

    def found(self) -> Findings | None:
        """What it has found, if there is nothing left to do."""
        if self.base.run.read(FILE) is None:
            return None
        journal = Journal(self.base.run, said(self.plan))
        findings = self.findings(journal.trials, journal.seconds)
        return None if findings.left or not journal.closed else findings


def opened(plan: Plan, file: Path, command: str) -> Sweeping:
    """Check what can be checked of a sweep without a cluster.

    Args:
        plan: The sweep.
        file: Where it was read from.
        command: What starts it.

    Raises:
        RayDiffusionError: As of ``cluster.plan.prepare``, of the base; or if trials are compared by
            errors in the latents of different codecs.
    """
    made_with = Lineage()
    base = prepare(configs.override(plan.base, {"run.name": plan.sweep.name}), made_with)
    _refuse_different_codecs(plan)
    if sqlite_path(base.identity.uri):  # a database beside the sweep, for its trials too
        shared = {"tracking.uri": base.identity.uri}
        plan = replace(plan, base=configs.override(plan.base, shared))
    _warn_of_oddities(plan)
    return Sweeping(plan, base, made_with, file.read_text(encoding="utf-8"), command)


def _refuse_different_codecs(plan: Plan) -> None:
    """Errors are of what a model works on, so those in different codecs' latents do not compare."""
    varied, metric = plan.space.get(DATASET), plan.sweep.metric
    if varied is None or metric.of_samples:
        return
    urls = varied.samples
    codecs = [_codec(url) for url in urls]
    for url, codec in zip(urls, codecs, strict=True):
        if codec != codecs[0]:
            raise ConfigError(
                [
                    f"metric.name: {metric.name} does not compare models of different codecs' "
                    f"latents ({urls[0]}: {codecs[0]}; {url}: {codec}): it is measured on the "
                    f"latents; {confirm.DECIDES} compares decoded images"
                ]
            )


def _codec(dataset_url: str) -> str:
    """What a dataset holds: the latents of which codec, or pixels."""
    if dataset_url.startswith(SCHEME):
        return PIXELS
    latents = read_manifest(absolute(dataset_url)).latents
    return PIXELS if latents is None else latents.codec


def _warn_of_oddities(plan: Plan) -> None:
    """Say which trials have odd schedules: they may train well and draw badly."""
    if plan.sweep.method == "bayes" or not any(key.startswith(SCHEDULE) for key in plan.space):
        return
    odd: dict[str, list[str]] = {}
    for number in range(plan.num_trials):
        for complaint in oddities(plan.trial(plan.values(number))):
            odd.setdefault(complaint, []).append(trial_name(number))
    for complaint, names in odd.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        warn(f"{names[0]}{more}: {complaint}")


def said(plan: Plan) -> str:
    """What a sweep is, as text that another one does not have.

    The number of trials, the budget, the resources and what is confirmed may change on the way; of
    the base the run that stands for the sweep takes care, but for how images are drawn.
    """
    parameters = {key: one.model_dump(exclude_none=True) for key, one in plan.space.items()}
    own = plan.sweep.model_dump(mode="json", exclude={"run_cap", "budget", "resources", "confirm"})
    drawing = plan.base.sampler.model_dump(), plan.sweep.confirm.num_images
    return repr((own, parameters, drawing))


def tasks(plan: Plan, trials: Mapping[str, Trial]) -> list[Task]:
    """What is to be trained next: trials of the search, and once they are over, the confirmation's.

    Args:
        plan: The sweep.
        trials: Those that have begun, by name.
    """
    over = {name for name, trial in trials.items() if trial.over}
    search = [Task.of_search(number) for number in range(plan.num_trials)]
    repeats = [
        Task(one.name, values=one.values, repeats=one.repeats)
        for one in confirm.repeats(list(trials.values()), plan)
    ]
    left = [task for task in search if task.name not in over]
    return left or [task for task in repeats if task.name not in over]
