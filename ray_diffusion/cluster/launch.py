"""The only place that starts training on Ray: one launch of a run, and its records."""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import ray

from ray_diffusion import config as configs
from ray_diffusion.cluster import latents, warm_start
from ray_diffusion.cluster.alone import Alone
from ray_diffusion.cluster.attempt import Attempt, begin, on_cluster
from ray_diffusion.cluster.environment import forwarded, tracking_access
from ray_diffusion.cluster.exported import export, folder_of
from ray_diffusion.cluster.files import RunFiles
from ray_diffusion.cluster.group import Group
from ray_diffusion.cluster.lease import held
from ray_diffusion.cluster.lineage import CONFIG, ORIGIN, spool_directory
from ray_diffusion.cluster.plan import Plan
from ray_diffusion.cluster.summary import Summary, images_of_codec
from ray_diffusion.cluster.worker import Assignment
from ray_diffusion.config import Config
from ray_diffusion.errors import (
    ClusterError,
    Diverged,
    Preempted,
    RayDiffusionError,
    TrackingError,
    UsageError,
    warn,
)
from ray_diffusion.storage import Directory
from ray_diffusion.tracking.registry import MODEL
from ray_diffusion.tracking.run import find_or_create
from ray_diffusion.tracking.tracker import Tracker
from ray_diffusion.training import checkpoint

MLFLOW_WAIT_S = 20.0  # for the run's id at the start; afterwards the spool is enough
STATUSES = {Diverged: ("diverged", "FAILED"), Preempted: ("preempted", "KILLED")}


def fit(plan: Plan) -> Summary:
    """Train a run to its end on the connected cluster, from its newest checkpoint.

    Args:
        plan: What to train.

    Returns:
        The summary, which is also in the run's directory.

    Raises:
        UsageError: If another launch trains the run.
        RayDiffusionError: The reason, if the run did not reach its end; the summary is written
            all the same, and is the error's note.
    """
    config = fitted_to_cluster(plan.config)
    return launch(plan, config, Group(config, plan.identity.name))


def launch(plan: Plan, config: Config, group: Group | Alone) -> Summary:
    """Train a run to its end, from its newest checkpoint.

    Args:
        plan: What to train.
        config: Its configuration, fitted to the cluster.
        group: Who trains.

    Returns:
        The summary.

    Raises:
        UsageError: If another launch trains the run.
        RayDiffusionError: As of ``fit``.
    """
    with held(plan.run, end_at_once):
        warm_start.prepare(plan.config, plan.run, plan.identity.uri)
        latents.keep_codec(plan.config, plan.run)
        identity = on_cluster(plan.identity, ray.cluster_resources())  # type: ignore[no-untyped-call]
        return _launched(replace(plan, identity=identity), config, group)


def end_at_once(message: str) -> None:
    """End a launch whose run another one has taken over: nothing of it may be written any more."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(UsageError.exit_code)  # Ray ends the workers of a driver that is gone


def _launched(plan: Plan, config: Config, group: Group | Alone) -> Summary:
    summary = Summary(
        "failed",
        plan.run.url,
        tracking_uri=plan.identity.shown_uri,
        codec_of=images_of_codec(config),
    )
    failure: RayDiffusionError | None = None
    mlflow_status = "FINISHED"
    with recorded(plan) as (attempt, tracker, files, run_id):
        environment = forwarded(config.cluster.forward_env) | tracking_access()
        assignment = Assignment(config, plan.identity, run_id, group.board, environment)
        started = time.monotonic()
        try:
            group.train(vars(assignment))
            _export_model(plan, files, tracker)
            summary.status = "finished"
        except RayDiffusionError as error:
            failure = error
            summary.status, mlflow_status = STATUSES.get(type(error), ("failed", "FAILED"))
        summary.seconds = time.monotonic() - started
        told = group.told()
        summary.restarts = told.get("restarts", 0)
        _tell_state(summary, plan.run)
        workers = told.get("workers", 0 if told else config.cluster.least_workers)
        cost = attempt.cost(plan.run, config, workers, summary.seconds)
        tracker.log(summary.images_seen, cost)
        summary.cpu_hours, summary.gpu_hours = cost["run/cpu_hours"], cost["run/gpu_hours"]
        summary.shipped = False
        summary.write(plan.run)  # before the wait for MLflow, lest a kill in it leave none
        summary.shipped = tracker.finish(mlflow_status) and told.get("shipped", False)
        summary.mlflow_run_id = tracker.run_id or run_id
        summary.write(plan.run)
    if failure is not None:
        failure.add_note(summary.block())
        raise failure
    return summary


@contextmanager
def recorded(plan: Plan) -> Iterator[tuple[Attempt, Tracker, RunFiles, str | None]]:
    """Record a launch, from its beginning on: in the run's directory and in MLflow.

    Args:
        plan: What is launched.

    Yields:
        The launch, what records its metrics and its files, and the id of its run in MLflow if
        that could be reached.
    """
    # The key before the run that it finds: a kill between them must not leave two runs.
    attempt, spools = begin(plan.run, plan.identity), spool_directory(plan.config, plan.identity)
    with Tracker(spools, "driver", plan.identity) as tracker:
        files = RunFiles(plan.run, spools, tracker)
        files.write(CONFIG, configs.dump(plan.config))
        attempt.write_lineage(plan.run, files, plan.made_with)
        run_id = _mlflow_run(plan)
        files.write(ORIGIN, attempt.origin(run_id))
        tracker.status("RUNNING")
        yield attempt, tracker, files, run_id


def _tell_state(summary: Summary, run: Directory) -> None:
    """Fill in how far the newest checkpoint is."""
    newest = checkpoint.newest_facts(run)
    if newest is not None:
        name, facts = newest
        summary.checkpoint = f"{run.url}/{name}"
        summary.images_seen, summary.steps = facts["images_seen"], facts["steps"]
        summary.metrics, summary.best = facts["metrics"], facts["best"]


def _export_model(plan: Plan, files: RunFiles, tracker: Tracker) -> None:
    """Write ``model/``, of the newest checkpoint, and have it registered where it is to be."""
    with tempfile.TemporaryDirectory() as scratch:
        source, model = Path(scratch, "checkpoint"), Path(scratch, "model")
        source.mkdir()
        checkpoint.fetch_newest(plan.run, source, warn)
        latents.add_codec(plan.config, plan.run, source)
        tags = export(source, model)
        files.publish(model, MODEL)
        if name := plan.config.tracking.registered_model:
            folder = folder_of(model)
            files.publish(model, folder)  # model/ changes when the run goes on, a version never
            tracker.register(name, folder, tags)


def _mlflow_run(plan: Plan) -> str | None:
    try:
        return find_or_create(plan.identity, deadline_s=MLFLOW_WAIT_S).run_id
    except TrackingError:
        return None  # the driver's tracker tries on, and tells the user


def fitted_to_cluster(config: Config) -> Config:
    """Share the cluster's CPUs out to the workers.

    Args:
        config: The resolved configuration.

    Returns:
        The configuration with ``cluster.cpus_per_worker`` known.

    Raises:
        ClusterError: If the cluster is too small.
    """
    have, want = ray.cluster_resources(), config.cluster  # type: ignore[no-untyped-call]
    cpus = want.cpus_per_worker or max(1, int(have.get("CPU", 0)) // want.most_workers)
    need = {"CPU": cpus * want.least_workers, "GPU": want.least_workers * want.use_gpu}
    for resource, amount in need.items():
        if have.get(resource, 0) < amount:
            raise ClusterError(
                f"cluster.num_workers={want.least_workers} needs {amount} {resource}s, the cluster "
                f"has {have.get(resource, 0):g}; lower it, or join more nodes"
            )
    return configs.override(config, {"cluster.cpus_per_worker": cpus})
