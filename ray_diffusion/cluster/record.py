"""What is found out about a run after it was trained joins its records."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ray_diffusion.cluster import summary
from ray_diffusion.cluster.exported import export, folder_of
from ray_diffusion.cluster.files import RunFiles
from ray_diffusion.cluster.latents import add_codec
from ray_diffusion.cluster.lineage import (
    adopt_tail,
    leftovers,
    recorded,
    ship_leftovers,
    spool_directory,
)
from ray_diffusion.errors import StorageError, TrackingError, UsageError
from ray_diffusion.storage import Directory
from ray_diffusion.tracking.promotion import Version, upload
from ray_diffusion.tracking.run import find_or_create
from ray_diffusion.tracking.tracker import Tracker
from ray_diffusion.training.checkpoint import NAME

MLFLOW_WAIT_S = 30.0  # a new database takes ten seconds
PATIENCE_S = 120.0  # without a point arriving: a model may have to be uploaded between two


def add_evaluation(
    run: Directory,
    source: str,
    figures: Mapping[str, float],
    files: Mapping[str, str],
    deadline_s: float | None = None,
) -> bool:
    """Add figures and files to a run's directory, its summary and its MLflow run.

    Args:
        run: The run's directory; it may have been moved since it was trained.
        source: The checkpoint that was measured.
        figures: By metric name.
        files: Contents by name.
        deadline_s: The longest wait for MLflow, in seconds; None for one that a person accepts.

    Returns:
        Whether MLflow has them.
    """
    facts = summary.read(run)
    assert facts is not None
    facts |= {"metrics": facts["metrics"] | figures}
    run.write(summary.FILE, json.dumps(facts, indent=1))
    trained, origin = recorded(run)
    spools = spool_directory(trained, origin)
    checkpoint = NAME.fullmatch(source.rsplit("/", 1)[-1])
    with Tracker(spools, "evaluate", origin, run_id=facts["mlflow_run_id"]) as tracker:
        tracker.log(int(checkpoint[1]) if checkpoint else facts["images_seen"], figures)
        record = RunFiles(run, spools, tracker)
        for file, content in files.items():
            record.write(file, content)
        shipped = tracker.finish(deadline_s=MLFLOW_WAIT_S if deadline_s is None else deadline_s)
    if not shipped:
        run.write(summary.FILE, json.dumps(facts | {"shipped": False}, indent=1))
    return shipped


def add_version(run: Directory, source: str, name: str) -> Version:
    """Register the model of a run's checkpoint, unless it is.

    Args:
        run: The run's directory; it may have been moved since it was trained.
        source: The checkpoint.
        name: The registered model's name.

    Returns:
        The version.

    Raises:
        StorageError: If the checkpoint is gone or damaged.
        TrackingError: If MLflow cannot be reached.
    """
    facts = summary.read(run)
    assert facts is not None
    trained, origin = recorded(run)
    found = find_or_create(origin, run_id=facts["mlflow_run_id"], deadline_s=MLFLOW_WAIT_S)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint, model = Path(scratch, "checkpoint"), Path(scratch, "model")
        problem = Directory(source).fetch("", checkpoint)
        if problem is not None:
            raise StorageError(f"{source} {problem}")
        add_codec(trained, run, checkpoint)
        tags = export(checkpoint, model)
        return upload(origin.uri, name, found.run_id, str(model), folder_of(model), tags)


def finish(run: Directory, status: str, deadline_s: float) -> None:
    """Record the final state of a run whose launch could not.

    Args:
        run: The run's directory.
        status: In MLflow's words.
        deadline_s: The longest wait for MLflow, in seconds.
    """
    trained, origin = recorded(run)
    with Tracker(spool_directory(trained, origin), "driver", origin) as tracker:
        tracker.finish(status, deadline_s)


def ship(run: Directory, uri: str | None = None, patience_s: float = PATIENCE_S) -> str:
    """Ship what MLflow does not have yet of a run.

    Args:
        run: The run's directory.
        uri: Where MLflow is now; None for where the run's records say.
        patience_s: Give up when no point has arrived for so long, in seconds.

    Returns:
        What became of it, in a few words.

    Raises:
        TrackingError: If MLflow cannot be reached, or stops taking records.
    """
    trained, identity = recorded(run, uri)
    try:
        adopt_tail(run, trained, identity)
        left = leftovers(trained, identity)
        if not left:
            return "nothing was left"
        found = find_or_create(identity, deadline_s=MLFLOW_WAIT_S)
        shipped, run_id = ship_leftovers(trained, identity, patience_s)
    except UsageError:
        return "is being recorded now, and ships by itself"
    if not shipped:
        raise TrackingError(
            f"MLflow at {identity.shown_uri} stopped taking records of {run.url}; "
            "nothing is lost, the same command goes on"
        )
    if facts := summary.read(run):
        facts |= {"shipped": True, "mlflow_run_id": run_id}
        run.write(summary.FILE, json.dumps(facts, indent=1))
    return f"{sum(left.values()):,} points shipped, {found.url or f'run {run_id}'}"
