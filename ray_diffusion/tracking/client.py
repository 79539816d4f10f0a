"""How this project talks to MLflow: quietly, without MLflow's own retries, in short calls.

``import mlflow`` costs one to two seconds of CPU, so nothing here does it before `connect`.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ray_diffusion.config.passwords import without_passwords
from ray_diffusion.errors import RayDiffusionError, TrackingError, UsageError
from ray_diffusion.tracking.identity import sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient

REQUEST_TIMEOUT_S = 5

# MLflow reads these at each call. By default it tries a call 8 times for 120 s each; ours is made
# from threads that wait and try again themselves, and that must notice when they are to stop.
CALLS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(REQUEST_TIMEOUT_S),
}
SILENCE = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "1",
}

BRIEF_CHARACTERS = 200

LATER = frozenset({401, 403, 404, 408, 409, 425, 429})
"""Refusals that someone can lift: credentials, a proxy's path, a limit. The event can wait."""


def connect(uri: str) -> "MlflowClient":
    """A client of the MLflow at ``uri``.

    This sets MLflow's environment variables and log levels for the whole process: MLflow has no
    other place for them. The number of retries and the timeout stay as the user has set them.

    Args:
        uri: A tracking URI. The directory of a sqlite database is made.
    """
    for name, value in CALLS.items():
        os.environ.setdefault(name, value)
    os.environ.update(SILENCE)
    if (database := sqlite_path(uri)) is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
    from mlflow import MlflowClient

    # After the import, which sets the levels itself. Above ERROR, as MLflow logs the traceback of
    # each failed call that it also raises, and ours is the word that the user needs.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return MlflowClient(uri)


@contextmanager
def asked(uri: str, missing: UsageError | None = None) -> Iterator[None]:
    """Turn what MLflow raises, of whatever class, into one line for the user.

    Its own errors, requests', SQLAlchemy's and the drivers' of both come through.

    Args:
        uri: The MLflow that is asked.
        missing: Raised where it has not got what is asked for, or has not even a database: asking
            would make one. None if that is no fault of the user's.

    Raises:
        UsageError: ``missing``.
        TrackingError: If the block raises anything else but an error of ours.
    """
    database = sqlite_path(uri)
    if missing is not None and database is not None and not database.exists():
        raise missing
    try:
        yield
    except RayDiffusionError:
        raise
    except Exception as error:
        if missing is not None and (is_missing(error) or is_permanent(error)):
            raise missing from error
        raise TrackingError(f"MLflow at {without_passwords(uri)}: {brief(error)}") from error


def is_permanent(error: Exception) -> bool:
    """Whether sending the same thing again can never succeed.

    Only plain words count: anything unclear is taken for an outage, which loses nothing.
    """
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        # Not BAD_REQUEST: MLflow also uses it for troubles of its database that pass.
        return bool(error.error_code == "INVALID_PARAMETER_VALUE")
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return True
    # Uploads through the server's artifact proxy raise requests' error instead of MLflow's.
    status = getattr(getattr(error, "response", None), "status_code", None)
    return isinstance(status, int) and 400 <= status < 500 and status not in LATER


def is_missing(error: Exception) -> bool:
    """Whether MLflow answered that what was asked for does not exist."""
    return getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST"


def brief(error: BaseException) -> str:
    """Why a call failed, in one line that is short enough to be read in a log.

    What the operating system said, where that is at the bottom of it: the layers above wrap it in
    more words than one line holds.
    """
    root = error
    while not isinstance(error, TrackingError) and (below := root.__cause__ or root.__context__):
        root = below
    said = root.strerror if isinstance(root, OSError) and root.strerror else str(error)
    line = without_passwords((said.splitlines() or [""])[0].strip()) or type(error).__name__
    return line if len(line) <= BRIEF_CHARACTERS else f"{line[:BRIEF_CHARACTERS]}…"
