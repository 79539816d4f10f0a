"""Which MLflow run a training belongs to.

A run is found by the key that its directory holds, and never by a name or by state kept in a
process. So a retried job, a restarted worker and a resumed trial all arrive at the same run.
"""

import getpass
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ray_diffusion.config.passwords import without_passwords
from ray_diffusion.errors import ConfigError

KEY_TAG = "ray_diffusion.run_key"

PARENT_TAG = "mlflow.parentRunId"
"""MLflow's own name: its pages show a run below its parent."""


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

    parent_run_id: str | None = None
    """The run that this one is a part of, such as a sweep's; it joins the tags."""

    def __post_init__(self) -> None:
        if self.parent_run_id is not None:
            tags = dict(self.tags) | {PARENT_TAG: self.parent_run_id}
            object.__setattr__(self, "tags", tags)

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
