"""What is found out about a run after it was trained joins its records."""

import json
from collections.abc import Mapping

from ray_diffusion import config as configs
from ray_diffusion.cluster import summary
from ray_diffusion.cluster.files import RunFiles
from ray_diffusion.cluster.lineage import identity, spool_directory
from ray_diffusion.cluster.plan import CONFIG
from ray_diffusion.storage import Directory
from ray_diffusion.tracking.tracker import Tracker
from ray_diffusion.training.checkpoint import NAME

MLFLOW_WAIT_S = 30.0  # a new database takes ten seconds


def add_evaluation(
    run: Directory,
    source: str,
    dataset_fingerprint: str,
    figures: Mapping[str, float],
    files: Mapping[str, str],
) -> bool:
    """Add figures and files to a run's directory, its summary and its MLflow run.

    Args:
        run: The run's directory; it may have been moved since it was trained.
        source: The checkpoint that was measured.
        dataset_fingerprint: Of what the figures are relative to.
        figures: By metric name.
        files: Contents by name.

    Returns:
        Whether MLflow has them.
    """
    facts = summary.read(run)
    assert facts is not None
    run.write(summary.FILE, json.dumps(facts | {"metrics": facts["metrics"] | figures}, indent=1))
    trained = configs.from_yaml((run.read(CONFIG) or b"").decode(), f"{run.url}/{CONFIG}")
    storage_url, name = run.url.rsplit("/", 1)
    trained = configs.override(trained, {"run.storage_url": storage_url, "run.name": name})
    origin = identity(trained, dataset_fingerprint)
    spools = spool_directory(trained, origin)
    checkpoint = NAME.fullmatch(source.rsplit("/", 1)[-1])
    with Tracker(spools, "evaluate", origin, run_id=facts["mlflow_run_id"]) as tracker:
        tracker.log(int(checkpoint[1]) if checkpoint else facts["images_seen"], figures)
        record = RunFiles(run, spools, tracker)
        for file, content in files.items():
            record.write(file, content)
        return tracker.finish(deadline_s=MLFLOW_WAIT_S)
