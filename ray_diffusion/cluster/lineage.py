"""Where a run's records are, and what they say of its origin."""

from pathlib import Path
from typing import get_args

from ray_diffusion.config import Config, flatten
from ray_diffusion.storage import Directory, cache_dir
from ray_diffusion.tracking.identity import RunIdentity, lineage_tags, run_key, tracking_uri
from ray_diffusion.tracking.tracker import Role, Tracker


def run_directory(config: Config) -> Directory:
    """The directory of a run, ``<run.storage_url>/<run.name>``."""
    return Directory(config.run.storage_url) / config.run.name


def spool_directory(config: Config) -> Path:
    """Where this machine keeps a run's metric spools: in the run's directory if that is local."""
    local = run_directory(config).local_path()
    if local is not None:
        return local / "spool"
    return cache_dir() / "spools" / run_key(config.run.storage_url, config.run.name)


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
        run_key=run_key(config.run.storage_url, config.run.name),
        experiment=config.tracking.experiment,
        uri=uri,
        artifact_location=artifacts,
        params={key: str(value) for key, value in flatten(config).items()},
        tags=lineage_tags() | {"ray_diffusion.dataset_fingerprint": dataset_fingerprint},
    )


def ship_leftovers(config: Config, origin: RunIdentity) -> bool:
    """Ship what earlier processes on this machine recorded of a run and MLflow does not have.

    Args:
        config: The resolved configuration.
        origin: The MLflow run.

    Returns:
        Whether MLflow has everything now.
    """
    spools = spool_directory(config)
    roles = [role for role in get_args(Role) if (spools / f"{role}.jsonl").exists()]
    return all([Tracker(spools, role, origin).finish() for role in roles])
