"""One trial of a sweep, in the process that Ray Tune gives it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from ray_diffusion import config as configs
from ray_diffusion.cluster.alone import Alone
from ray_diffusion.cluster.environment import applied
from ray_diffusion.cluster.group import Group
from ray_diffusion.cluster.launch import launch
from ray_diffusion.cluster.plan import Plan as Run
from ray_diffusion.cluster.plan import prepare
from ray_diffusion.cluster.sweeping.findings import TRAINED
from ray_diffusion.cluster.sweeping.judge import Task
from ray_diffusion.cluster.sweeping.quality import measure, measure_drawing
from ray_diffusion.cluster.sweeping.reporting import TrialBoard
from ray_diffusion.config.sweep import Plan
from ray_diffusion.errors import ConfigError, Diverged, Preempted
from ray_diffusion.storage import Directory
from ray_diffusion.tracking.environment import Lineage


@dataclass(frozen=True)
class Search:
    """What a sweep hands to each of its trials.

    Attributes:
        plan: The sweep.
        home: URL of its directory.
        judge: The actor that trials report to.
        tasks: What is to be trained.
        made_with: What trials are made with, as the driver knows it, and that they are its trials.
        environment: Variables of the driver's environment; not to be printed.
    """

    plan: Plan
    home: str
    judge: Any
    tasks: Sequence[Task]
    made_with: Lineage
    environment: Mapping[str, str] = field(repr=False)


def run_trial(chosen: Mapping[str, int], search: Search) -> None:
    """Train a trial until the judge says that it is over, or to its end, and measure it.

    What another try might cure is raised: Ray Tune starts the trial again, in another process.

    Args:
        chosen: Which of the tasks, as ``task``.
        search: The sweep.
    """
    task, judge = search.tasks[chosen["task"]], search.judge
    values = ray.get(judge.begin.remote(task))
    if values is None:
        return
    try:
        with applied(search.environment, search.plan.base.run.storage_options):
            figures = _figures(search, task, values)
        ray.get(judge.end.remote(task.name, "finished", figures))
    except Preempted:
        pass  # the judge knows why: the trial is over, or goes on with the sweep another time
    except (Diverged, ConfigError) as error:
        ray.get(judge.end.remote(task.name, "failed", {}, str(error)))
    finally:
        ray.get(judge.leave.remote(task.name))


def _figures(search: Search, task: Task, values: Mapping[str, Any]) -> dict[str, float]:
    """Train a trial to its end, if it has a training of its own, and measure it."""
    sweep = search.plan.sweep
    plan = prepared(search, task.name, values)
    how = (sweep.confirm.num_images, plan.config.run.seed)
    if search.plan.trains_once:
        return measure_drawing(plan, Directory(search.home) / TRAINED, *how)
    if plan.finished is None:
        told = (search.judge, task.name, sweep.metric.name)
        several = sweep.resources.num_workers > 1
        group = (
            Group(plan.config, plan.identity.name, TrialBoard, *told)
            if several
            else Alone(plan.config, TrialBoard(*told))
        )
        launch(plan, plan.config, group)
    return measure(plan.run, *how)


def prepared(search: Search, name: str, values: Mapping[str, Any]) -> Run:
    """A run below the sweep's directory, and in MLflow below the sweep's run.

    Args:
        search: The sweep.
        name: The run's directory.
        values: What it changes in the base.

    Raises:
        RayDiffusionError: As of ``cluster.plan.prepare``.
    """
    own = {"run.name": name, "run.storage_url": search.home, "tracking.registered_model": None}
    return prepare(configs.override(search.plan.trial(values), own), search.made_with)
