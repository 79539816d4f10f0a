"""Which MLflow run a training belongs to.

A run is found by the key that its directory holds, and never by a name or by state kept in a
process. So a retried job, a restarted worker and a resumed trial all arrive at the same run.
"""

import getpass
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ray_diffusion.config.passwords import without_passwords
from ray_diffusion.errors import ConfigError

KEY_TAG = "ray_diffusion.run_key"

PARENT_TAG = "mlflow.parentRunId"
"""MLflow's own name: its pages show a run below its parent."""

SWEEP_TAG, SWEEP_KEY_TAG = "ray_diffusion.sweep", "ray_diffusion.sweep_key"
"""Of a trial: name and key of the run that stands for its sweep."""


@dataclass(frozen=True)
class RunIdentity:
    """A run of MLflow: how to find it, and what to write on it when it is made."""

    name: str
    """What people see; `run_key` is what finds the run."""

    run_key: str
    """Stable over restarts: drawn when the run's directory is made, and kept there."""

    experiment: str
    """Name of the experiment; made if missing."""

    uri: str = field(repr=False)
    """Where MLflow is, see `tracking_uri`. It may hold a password: to be shown without it."""

    artifact_location: str | None = None
    """Where a new experiment keeps artifacts; None leaves it to the server."""

    params: Mapping[str, str] = field(default_factory=dict)
    """Dotted config keys. Values are cut to what MLflow takes; the whole config is an artifact."""

    tags: Mapping[str, str] = field(default_factory=dict)
    """`environment.lineage_tags` and whatever else the run should be found by."""

    @property
    def sweep(self) -> "RunIdentity | None":
        """The run that a trial's tags tell it is a part of; None for any other run."""
        if SWEEP_KEY_TAG not in self.tags:
            return None
        name, key = self.tags[SWEEP_TAG], self.tags[SWEEP_KEY_TAG]
        return replace(self, name=name, run_key=key, params={}, tags={})

    @property
    def shown_uri(self) -> str:
        """`uri` as it may be shown to anyone."""
        return without_passwords(self.uri)


def tracking_uri(configured: str | None, storage_url: str) -> tuple[str, str | None]:
    """Where MLflow is, and where a new experiment should keep its artifacts.

    The first of: what the config says, ``MLFLOW_TRACKING_URI``, a database in the run storage.
    Artifacts of a sqlite database lie beside it; MLflow's own choice would be the directory that
    the command happens to be called in.

    Args:
        configured: ``tracking.uri``.
        storage_url: ``run.storage_url``.

    Returns:
        The tracking URI, and the artifact location or None to leave it to the server.

    Raises:
        ConfigError: If there is no URI and no local storage to put a database into, or if the URI
            is a directory.
    """
    uri = configured or os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None or not uri.strip():
        if _is_remote(storage_url):
            raise ConfigError(
                [
                    "tracking.uri: must be given when run.storage_url is remote "
                    f"({storage_url}), or set MLFLOW_TRACKING_URI"
                ]
            )
        uri = f"sqlite:///{_local(storage_url) / 'mlflow.db'}"
    if uri.startswith(("file:", "/", "./", "../")):
        raise ConfigError(
            [f"tracking.uri: MLflow keeps runs in a database, not a directory; got {uri!r}"]
        )
    if (database := sqlite_path(uri)) is not None:
        return uri, str(database.parent / "mlartifacts")
    return uri, None


def sqlite_path(uri: str) -> Path | None:
    """The absolute path of a sqlite URI's database; None for any other URI.

    >>> sqlite_path("sqlite:////data/mlflow.db")
    PosixPath('/data/mlflow.db')
    >>> sqlite_path("http://mlflow:5000")
    """
    match = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+)(?:\?.*)?", uri)
    return _local(match[1]) if match else None


def _is_remote(url: str) -> bool:
    return "://" in url.removeprefix("file://")


def _local(path: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(path.removeprefix("file://"))))


def user() -> str:
    """Who runs this process, by name, or by number where there is none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return str(os.getuid())
