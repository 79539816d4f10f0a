"""What is found out about a run after it was trained joins its records."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ray_diffusion.cluster import summary
from ray_diffusion.cluster.exported import export, folder_of
from ray_diffusion.cluster.files import RunFiles
from ray_diffusion.cluster.lineage import recorded, spool_directory
from ray_diffusion.errors import StorageError
from ray_diffusion.storage import Directory
from ray_diffusion.tracking.promotion import Version, upload
from ray_diffusion.tracking.run import find_or_create
from ray_diffusion.tracking.tracker import Tracker
from ray_diffusion.training.checkpoint import NAME

MLFLOW_WAIT_S = 30.0  # a new database takes ten seconds


def add_evaluation(
    run: Directory, source: str, figures: Mapping[str, float], files: Mapping[str, str]
) -> bool:
    """Add figures and files to a run's directory, its summary and its MLflow run.

    Args:
        run: The run's directory; it may have been moved since it was trained.
        source: The checkpoint that was measured.
        figures: By metric name.
        files: Contents by name.

    Returns:
        Whether MLflow has them.
    """
    facts = summary.read(run)
    assert facts is not None
    run.write(summary.FILE, json.dumps(facts | {"metrics": facts["metrics"] | figures}, indent=1))
    trained, origin = recorded(run)
    spools = spool_directory(trained, origin)
    checkpoint = NAME.fullmatch(source.rsplit("/", 1)[-1])
    with Tracker(spools, "evaluate", origin, run_id=facts["mlflow_run_id"]) as tracker:
        tracker.log(int(checkpoint[1]) if checkpoint else facts["images_seen"], figures)
        record = RunFiles(run, spools, tracker)
        for file, content in files.items():
            record.write(file, content)
        return tracker.finish(deadline_s=MLFLOW_WAIT_S)


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
    _, origin = recorded(run)
    found = find_or_create(origin, run_id=facts["mlflow_run_id"], deadline_s=MLFLOW_WAIT_S)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint, model = Path(scratch, "checkpoint"), Path(scratch, "model")
        problem = Directory(source).fetch("", checkpoint)
        if problem is not None:
            raise StorageError(f"{source} {problem}")
        tags = export(checkpoint, model)
        return upload(origin.uri, name, found.run_id, str(model), folder_of(model), tags)
