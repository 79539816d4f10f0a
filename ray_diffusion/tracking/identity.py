"""Which MLflow run a training belongs to, and what it was made from.

A run is found by the key that its directory holds, and never by a name or by state kept in a
process. So a retried job, a restarted worker and a resumed trial all arrive at the same run.
"""

import getpass
import os
import platform
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from ray_diffusion.errors import ConfigError

KEY_TAG = "ray_diffusion.run_key"

GIT_TIMEOUT_S = 5.0
"""A work tree on a slow network disk must not hold up the start of a run."""

VERSIONED = ("ray-diffusion", "torch", "ray", "mlflow", "numpy")


@dataclass(frozen=True)
class RunIdentity:
    """A run of MLflow: how to find it, and what to write on it when it is made."""

    name: str
    """What people see; `run_key` is what finds the run."""

    run_key: str
    """Stable over restarts: drawn when the run's directory is made, and kept there."""

    experiment: str
    """Name of the experiment; made if missing."""

    uri: str
    """Where MLflow is, see `tracking_uri`."""

    artifact_location: str | None = None
    """Where a new experiment keeps artifacts; None leaves it to the server."""

    params: Mapping[str, str] = field(default_factory=dict)
    """Dotted config keys. Values are cut to what MLflow takes; the whole config is an artifact."""

    tags: Mapping[str, str] = field(default_factory=dict)
    """`lineage_tags` and whatever else the run should be found by."""


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


def lineage_tags() -> dict[str, str]:
    """What made the run: code, versions, command and host, as far as they can be told."""
    tags = {
        "command": _command(),
        "host": socket.gethostname(),
        "version.python": platform.python_version(),
        # MLflow's own names: its pages show these two beside the run.
        "mlflow.source.name": Path(sys.argv[0]).name or "python",
        "mlflow.user": user(),
    }
    for package in VERSIONED:
        try:
            tags[f"version.{package}"] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if commit := _git("rev-parse", "HEAD"):
        tags["git.commit"] = tags["mlflow.source.git.commit"] = commit
        tags["git.dirty"] = str(bool(_git("status", "--porcelain", "--untracked-files=no"))).lower()
    return tags


def _is_remote(url: str) -> bool:
    return "://" in url.removeprefix("file://")


def _local(path: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(path.removeprefix("file://"))))


def _command() -> str:
    """The command line, without passwords in URLs."""
    words = [Path(sys.executable).name, *sys.orig_argv[1:]]
    return re.sub(r"(://[^/@\s:]*):[^/@\s]*@", r"\1:***@", shlex.join(words))


def user() -> str:
    """Who runs this process, by name, or by number where there is none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return str(os.getuid())


def _git(*arguments: str) -> str | None:
    """What git says about this package's source; None if it is not a work tree of its own."""
    here = Path(__file__)
    git = ["git", "-C", str(here.parent)]
    # Locks are for git's own index refresh, which a run must not do under the user's hands.
    quiet = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    try:
        # An installed copy may lie inside a work tree of something else: only a tracked file tells.
        for command in ([*git, "ls-files", "--error-unmatch", here.name], [*git, *arguments]):
            done = subprocess.run(
                command, capture_output=True, text=True, env=quiet, timeout=GIT_TIMEOUT_S
            )
            if done.returncode:
                return None
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip()
