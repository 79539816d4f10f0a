"""Where a run's records are, and what they say of its origin."""

import json
import secrets
from pathlib import Path
from typing import get_args

from ray_diffusion.config import Config, flatten
from ray_diffusion.diffusion import profile, schedule
from ray_diffusion.models.draw import logsnr_table
from ray_diffusion.storage import Directory, cache_dir
from ray_diffusion.tracking.identity import RunIdentity, lineage_tags, tracking_uri
from ray_diffusion.tracking.tracker import Role, Tracker

ORIGIN = "run.json"


def run_directory(config: Config) -> Directory:
    """The directory of a run, ``<run.storage_url>/<run.name>``."""
    return Directory(config.run.url)


def run_key(run: Directory) -> str:
    """What finds a run's records: the key in its ``run.json``, or a new one.

    Drawn, not derived from the directory's name: when a directory is deleted and made again, its
    metrics must not be mixed with those of the run before.

    Args:
        run: The run's directory.

    Returns:
        The key.
    """
    content = run.read(ORIGIN)
    return str(json.loads(content)["run_key"]) if content else secrets.token_hex(8)


def spool_directory(config: Config, origin: RunIdentity) -> Path:
    """Where this machine keeps a run's metric spools: in the run's directory if that is local."""
    local = run_directory(config).local_path()
    return local / "spool" if local is not None else cache_dir() / "spools" / origin.run_key


def identity(config: Config, dataset_fingerprint: str) -> RunIdentity:
    """The MLflow run of a configuration.

    Args:
        config: The resolved configuration.
        dataset_fingerprint: Of the dataset it is trained on.

    Returns:
        The identity.

    Raises:
        ConfigError: If no tracking URI follows from the configuration.
    """
    uri, artifacts = tracking_uri(config.tracking.uri, config.run.storage_url)
    return RunIdentity(
        name=config.run.name,
        run_key=run_key(run_directory(config)),
        experiment=config.tracking.experiment,
        uri=uri,
        artifact_location=artifacts,
        params={key: str(value) for key, value in flatten(config).items()},
        tags=lineage_tags()
        | {
            "ray_diffusion.dataset_fingerprint": dataset_fingerprint,
            "ray_diffusion.schedule_fingerprint": schedule.fingerprint(logsnr_table(config)),
            "ray_diffusion.score_fingerprint": profile.fingerprint(),
        },
    )


def ship_leftovers(config: Config, origin: RunIdentity) -> tuple[bool, str | None]:
    """Ship what earlier processes on this machine recorded of a run and MLflow does not have.

    Args:
        config: The resolved configuration.
        origin: The MLflow run.

    Returns:
        Whether MLflow has everything now, and the id of its run, if it could be asked.
    """
    spools = spool_directory(config, origin)
    roles = [role for role in get_args(Role) if (spools / f"{role}.jsonl").exists()]
    trackers = [Tracker(spools, role, origin) for role in roles]
    shipped = all([tracker.finish() for tracker in trackers])
    return shipped, next((tracker.run_id for tracker in trackers if tracker.run_id), None)
