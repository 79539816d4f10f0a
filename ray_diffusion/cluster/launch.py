"""The only place that starts training on Ray."""

import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch

from ray_diffusion import config as configs
from ray_diffusion.cluster import worker
from ray_diffusion.cluster.board import Board
from ray_diffusion.cluster.environment import forwarded
from ray_diffusion.cluster.files import RunFiles
from ray_diffusion.cluster.lineage import ORIGIN, spool_directory
from ray_diffusion.cluster.plan import CONFIG, Plan
from ray_diffusion.cluster.progress import ProgressLine
from ray_diffusion.cluster.summary import Summary
from ray_diffusion.config import Config
from ray_diffusion.errors import (
    ClusterError,
    Diverged,
    Preempted,
    RayDiffusionError,
    TrackingError,
    WorkersFailed,
    warn,
)
from ray_diffusion.storage import Directory, cache_dir
from ray_diffusion.tracking.run import find_or_create
from ray_diffusion.tracking.tracker import Tracker
from ray_diffusion.training import checkpoint

MLFLOW_WAIT_S = 20.0  # for the run's id at the start; afterwards the spool is enough
BOARD_PERIOD_S = 0.5
MODEL_FILES = ("config.yaml", "ema.safetensors")
STATUSES = {Diverged: ("diverged", "FAILED"), Preempted: ("preempted", "KILLED")}


def fit(plan: Plan) -> Summary:
    """Train a run to its end on the connected cluster, from its newest checkpoint.

    Args:
        plan: What to train.

    Returns:
        The summary, which is also in the run's directory.

    Raises:
        RayDiffusionError: The reason, if the run did not reach its end; the summary is written
            all the same, and is the error's note.
    """
    config = fitted_to_cluster(plan.config)
    summary = Summary("failed", plan.run.url, tracking_uri=plan.identity.uri)
    failure: RayDiffusionError | None = None
    facts: dict[str, Any] = {"shipped": True}
    mlflow_status, started = "FINISHED", time.monotonic()
    spools = spool_directory(config, plan.identity)
    with Tracker(spools, "driver", plan.identity) as tracker:
        files = RunFiles(plan.run, spools, tracker)
        files.write(CONFIG, configs.dump(plan.config))
        # The key before the run that it finds: a kill between them must not leave two runs.
        plan.run.write(ORIGIN, _origin(plan, None))
        run_id = summary.mlflow_run_id = _mlflow_run(plan)
        files.write(ORIGIN, _origin(plan, run_id))
        tracker.status("RUNNING")
        try:
            facts = _train(plan, config, run_id)
            summary.restarts = facts["restarts"]
            _export_model(plan, files)
            summary.status = "finished"
        except RayDiffusionError as error:
            failure = error
            summary.status, mlflow_status = STATUSES.get(type(error), ("failed", "FAILED"))
        summary.seconds = time.monotonic() - started
        _tell_state(summary, plan.run)
        summary.shipped = False
        summary.write(plan.run)  # before the wait for MLflow, lest a kill in it leave none
        summary.shipped = tracker.finish(mlflow_status) and facts["shipped"]
        summary.mlflow_run_id = tracker.run_id or run_id
        summary.write(plan.run)
    if failure is not None:
        failure.add_note(summary.block())
        raise failure
    return summary


def _tell_state(summary: Summary, run: Directory) -> None:
    """Fill in how far the newest checkpoint is."""
    newest = checkpoint.newest_facts(run)
    if newest is not None:
        name, facts = newest
        summary.checkpoint = f"{run.url}/{name}"
        summary.images_seen, summary.steps = facts["images_seen"], facts["steps"]
        summary.metrics, summary.best = facts["metrics"], facts["best"]


def _export_model(plan: Plan, files: RunFiles) -> None:
    """Write ``model/``: what sampling needs of the newest checkpoint, and no more."""
    with tempfile.TemporaryDirectory() as scratch:
        source, model = Path(scratch, "checkpoint"), Path(scratch, "model")
        source.mkdir()
        checkpoint.fetch_newest(plan.run, source, warn)
        model.mkdir()
        for name in MODEL_FILES:
            (source / name).rename(model / name)
        state = json.loads((source / "state.json").read_text())
        (model / "profile.json").write_text(json.dumps(state["profile"]))
        files.publish(model, "model")


def _origin(plan: Plan, run_id: str | None) -> str:
    identity = plan.identity
    facts = {"run_key": identity.run_key, "mlflow_run_id": run_id} | dict(identity.tags)
    return json.dumps(facts, indent=1)


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
    need = {"CPU": cpus * want.most_workers, "GPU": want.most_workers * want.use_gpu}
    for resource, amount in need.items():
        if have.get(resource, 0) < amount:
            raise ClusterError(
                f"cluster.num_workers={want.most_workers} needs {amount} {resource}s, the cluster "
                f"has {have.get(resource, 0):g}; lower it, or join more nodes"
            )
    return configs.override(config, {"cluster.cpus_per_worker": cpus})


def _train(plan: Plan, config: Config, run_id: str | None) -> dict[str, Any]:
    """Run the workers to their end; what the board says then."""
    board = Board.remote()  # type: ignore[attr-defined]
    cluster = config.cluster
    trainer = ray.train.torch.TorchTrainer(
        worker.train,
        train_loop_config=vars(
            worker.Assignment(
                config, plan.identity, run_id, board, forwarded(config.cluster.forward_env)
            )
        ),
        scaling_config=ray.train.ScalingConfig(
            num_workers=cluster.num_workers,  # type: ignore[arg-type] # typed for Train V1
            use_gpu=cluster.use_gpu,
            resources_per_worker={"CPU": cluster.cpus_per_worker or 1}
            | ({"GPU": 1} if cluster.use_gpu else {}),
        ),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg] # typed for Train V1
            # Ray's own notes on the launch, of no use after it: checkpoints are ours (0002).
            name=f"{config.run.name}-{os.getpid()}-{time.time_ns()}",
            storage_path=str(cache_dir() / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=cluster.max_failures),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    with _stop_on_signals(board):
        error = _watched(trainer.fit, board)
    failure = ray.get(board.failure.remote())
    if failure is not None:
        raise failure
    if error is not None:
        raise _explained(error, config)
    told: dict[str, Any] = ray.get(board.read.remote())
    return told


def _watched(fit: Callable[[], Any], board: Any) -> Exception | None:
    """Call ``fit`` in a thread and show progress meanwhile; what it raised, if anything.

    In a thread Ray Train leaves the signals alone, so that Ctrl-C can save first.
    """
    errors: list[Exception] = []

    def call() -> None:
        try:
            fit()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=call, name="ray-train", daemon=True)
    thread.start()
    progress = ProgressLine()
    while thread.is_alive():
        progress.show(ray.get(board.read.remote()))
        thread.join(BOARD_PERIOD_S)
    progress.clear()
    return errors[0] if errors else None


@contextmanager
def _stop_on_signals(board: Any) -> Iterator[None]:
    """On Ctrl-C or SIGTERM save and stop; on a second Ctrl-C stop at once."""

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        board.request_stop.remote()
        print("\nstopping after a checkpoint; Ctrl-C again stops at once", file=sys.stderr)

    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the business of whoever owns the process
        return
    old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _explained(error: Exception, config: Config) -> RayDiffusionError:
    """What to tell the user of workers that kept failing."""
    print(error, file=sys.stderr)  # with its traceback: whoever mends it needs all of it
    causes = getattr(error, "worker_failures", None) or {0: error}
    rank, cause = sorted(causes.items())[0]
    cause = getattr(cause, "_base_exc", cause)
    last = (str(cause).strip().splitlines() or [type(cause).__name__])[-1].partition(". ")[0]
    return WorkersFailed(
        f"worker {rank} failed more than cluster.max_failures={config.cluster.max_failures} "
        f"times: {last}"
    )
