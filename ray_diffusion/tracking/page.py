"""What the page of a run in MLflow says: enough to start the run again."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ray_diffusion.config.passwords import without_passwords
from ray_diffusion.errors import TrackingError, UsageError
from ray_diffusion.tracking.client import asked, brief, connect

CONFIG = "config.yaml"


class Page(NamedTuple):
    """A run's page.

    Attributes:
        tags: What the run was made with, as ``environment.lineage_tags`` told it.
        config: The text of its resolved configuration.
    """

    tags: Mapping[str, str]
    config: str


def read_page(run_id: str, tracking_uri: str) -> Page:
    """Read the page of a run.

    Args:
        run_id: The run's id.
        tracking_uri: The MLflow that has it.

    Raises:
        UsageError: If there is no such run, or it has no configuration.
        TrackingError: If MLflow or its artifacts cannot be reached.
    """
    where = f"MLflow at {without_passwords(tracking_uri)}"
    missing = UsageError(f"{where} has no run {run_id!r}; tracking.uri=... asks another one")
    with asked(tracking_uri, missing):
        client = connect(tracking_uri)
        tags = client.get_run(run_id).data.tags
    try:
        names = {file.path for file in client.list_artifacts(run_id)}
        with tempfile.TemporaryDirectory() as scratch:
            if CONFIG in names:
                path = Path(client.download_artifacts(run_id, CONFIG, scratch))
                return Page(tags, path.read_text(encoding="utf-8"))
    except Exception as error:
        raise TrackingError(f"{where} has run {run_id}, not its files: {brief(error)}") from error
    raise UsageError(f"{where} has no {CONFIG} of run {run_id}: not shipped yet, or not ours")
