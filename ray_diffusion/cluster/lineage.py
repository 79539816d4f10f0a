"""Where a run's records are, and what they say of its origin."""

import json
import secrets
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import get_args

from ray_diffusion import config as configs
from ray_diffusion.cluster.files import fetched
from ray_diffusion.config import Config, flatten
from ray_diffusion.diffusion import profile, schedule
from ray_diffusion.errors import UsageError
from ray_diffusion.models.draw import logsnr_table
from ray_diffusion.storage import Directory, cache_dir
from ray_diffusion.tracking.identity import SWEEP_TAG, RunIdentity, tracking_uri
from ray_diffusion.tracking.spool import Spool
from ray_diffusion.tracking.tracker import Role, Tracker
from ray_diffusion.training import checkpoint

CONFIG, ORIGIN = "config.yaml", "run.json"

TAIL = "spool.jsonl"
"""In a checkpoint in remote storage: the metrics until then that MLflow did not have."""


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


def identity(config: Config, dataset_fingerprint: str, made_with: Mapping[str, str]) -> RunIdentity:
    """The MLflow run of a configuration.

    Args:
        config: The resolved configuration.
        dataset_fingerprint: Of the dataset it is trained on.
        made_with: Tags of what it is made with.

    Returns:
        The identity.

    Raises:
        ConfigError: If no tracking URI follows from the configuration.
    """
    fingerprints = {
        "ray_diffusion.dataset_fingerprint": dataset_fingerprint,
        "ray_diffusion.schedule_fingerprint": schedule.fingerprint(logsnr_table(config)),
        "ray_diffusion.score_fingerprint": profile.fingerprint(),
    }
    return _identity(config, run_key(run_directory(config)), {**made_with, **fingerprints})


def recorded(run: Directory, uri: str | None = None) -> tuple[Config, RunIdentity]:
    """A run as its last launch wrote it down, with the lineage of that launch.

    Args:
        run: The run's directory; it may have been moved since.
        uri: Where MLflow is now, instead of where the configuration says.

    Returns:
        The configuration, at home where the run is now, and the MLflow run.

    Raises:
        UsageError: If this is no run's directory.
        ConfigError: If no tracking URI follows from the configuration.
    """
    config, origin = run.read(CONFIG), run.read(ORIGIN)
    if config is None or origin is None:
        raise UsageError(f"{run.url} is no run: it has no {CONFIG if config is None else ORIGIN}")
    storage_url, name = run.url.rsplit("/", 1)
    moved = {"run.storage_url": storage_url, "run.name": name}
    told = configs.from_yaml(config.decode(), f"{run.url}/{CONFIG}")
    told = configs.override(told, moved | ({} if uri is None else {"tracking.uri": uri}))
    tags = json.loads(origin)
    key, _, _ = tags.pop("run_key"), tags.pop("mlflow_run_id"), tags.pop("attempts", None)
    return told, _identity(told, key, tags)


def adopt_tail(run: Directory, config: Config, origin: RunIdentity) -> None:
    """Take over what the newest checkpoint holds of metrics that MLflow did not have.

    Args:
        run: The run's directory; nothing is done for a local one, where the spool itself is.
        config: The resolved configuration.
        origin: The MLflow run.

    Raises:
        UsageError: If a process is recording the run now.
    """
    checkpoints = [] if run.local_path() else checkpoint.names(run)
    tail = run.read(f"{checkpoints[-1]}/{TAIL}") if checkpoints else None
    if tail:
        spools = spool_directory(config, origin)
        with closing(Spool(spools / "train.jsonl")) as spool:
            spool.adopt(tail, partial(fetched, run=run, into=spools))


def leftovers(config: Config, origin: RunIdentity) -> dict[Role, int]:
    """What this machine's spools hold of a run that MLflow does not have.

    Args:
        config: The resolved configuration.
        origin: The MLflow run.

    Returns:
        Points by role: 0 where only files or states wait, nothing where nothing does.

    Raises:
        UsageError: If a process is recording the run now.
    """
    found: dict[Role, int] = {}
    for role, path in _spools(config, origin).items():
        with closing(Spool(path)) as spool:
            if not spool.drained:
                found[role] = spool.backlog
    return found


def ship_leftovers(
    config: Config, origin: RunIdentity, patience_s: float = 10.0
) -> tuple[bool, str | None]:
    """Ship what earlier processes on this machine recorded of a run and MLflow does not have.

    Args:
        config: The resolved configuration.
        origin: The MLflow run.
        patience_s: Give up when no point has arrived for so long, in seconds.

    Returns:
        Whether MLflow has everything now, and the id of its run, if it could be asked.

    Raises:
        UsageError: If a process is recording the run now.
    """
    spools = _spools(config, origin)
    while True:
        trackers = [Tracker(path.parent, role, origin) for role, path in spools.items()]
        waited = sum(tracker.backlog for tracker in trackers)
        shipped = all([tracker.finish(deadline_s=patience_s) for tracker in trackers])
        if shipped or sum(tracker.backlog for tracker in trackers) == waited:
            return shipped, next((tracker.run_id for tracker in trackers if tracker.run_id), None)


def _identity(config: Config, run_key: str, tags: Mapping[str, str]) -> RunIdentity:
    uri, artifacts = tracking_uri(config.tracking.uri, config.run.storage_url)
    sweep = f"{tags[SWEEP_TAG]}/" if SWEEP_TAG in tags else ""
    return RunIdentity(
        name=sweep + config.run.name,
        run_key=run_key,
        experiment=config.tracking.experiment,
        uri=uri,
        artifact_location=artifacts,
        params={key: str(value) for key, value in flatten(config).items()},
        tags=tags,
    )


def _spools(config: Config, origin: RunIdentity) -> dict[Role, Path]:
    """The spools that a run has on this machine."""
    directory = spool_directory(config, origin)
    paths = {role: directory / f"{role}.jsonl" for role in get_args(Role)}
    return {role: path for role, path in paths.items() if path.exists()}
