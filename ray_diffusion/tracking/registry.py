"""Models that MLflow has, registered or of a run, brought to this machine."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ray_diffusion.config import Config
from ray_diffusion.config.passwords import without_passwords
from ray_diffusion.errors import TrackingError, UsageError
from ray_diffusion.tracking.client import asked, brief, connect
from ray_diffusion.tracking.identity import tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

SCHEME, RUN_SCHEME = "models:/", "mlflow:"
MODEL = "model"  # the folder of a run's artifacts that holds its model
URI = re.compile(
    r"models:/(?P<name>[^/:]+)(?:@(?P<alias>[\w-]+)|/(?P<version>\d+))|mlflow:(?P<run_id>\w+)"
)


class Registered(NamedTuple):
    """A model that was brought to this machine.

    Attributes:
        uri: ``models:/NAME/VERSION``, which an alias moves away from but which itself stays; or
            ``mlflow:RUN_ID``.
        path: Its files.
    """

    uri: str
    path: Path


def fetch_model(uri: str, tracking_uri: str, into: Path) -> Registered:
    """Download a model.

    Args:
        uri: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, or ``mlflow:RUN_ID`` for the model
            that a run ended with.
        tracking_uri: The MLflow that has it.
        into: Where to; an empty directory.

    Returns:
        The model.

    Raises:
        UsageError: If there is no such model, version, alias or run.
        TrackingError: If MLflow or its artifacts cannot be reached.
    """
    wanted = URI.fullmatch(uri)
    if wanted is None:
        forms = f"{SCHEME}NAME@ALIAS, {SCHEME}NAME/VERSION, {RUN_SCHEME}RUN_ID"
        raise UsageError(f"{uri} is none of {forms}")
    missing = UsageError(f"MLflow at {without_passwords(tracking_uri)} has no {uri}")
    with asked(tracking_uri, missing):
        found, location = _locate(connect(tracking_uri), **wanted.groupdict())
    try:
        return Registered(found, _download(location, tracking_uri, into))
    except Exception as error:
        raise TrackingError(
            f"MLflow at {without_passwords(tracking_uri)} has {uri}, but not its files: "
            f"{brief(error)}"
        ) from error


@contextmanager
def at_hand(model: str) -> Iterator[tuple[str, str]]:
    """A model on this machine for a while, if it is in MLflow; any other one stays where it is.

    Args:
        model: As of ``fetch_model``, in `default_uri`; or a directory.

    Yields:
        What the model is called, and the directory that has its files.

    Raises:
        UsageError: As of ``fetch_model``, which this is also in.
        TrackingError: Likewise.
    """
    if not model.startswith((SCHEME, RUN_SCHEME)):
        yield model, model
        return
    with tempfile.TemporaryDirectory() as scratch:
        found = fetch_model(model, default_uri(), Path(scratch))
        yield found.uri, str(found.path)


def default_uri() -> str:
    """Where MLflow is for a verb that reads no run's configuration."""
    return tracking_uri(None, Config().run.storage_url)[0]


def _locate(
    client: "MlflowClient",
    name: str | None,
    alias: str | None,
    version: str | None,
    run_id: str | None,
) -> tuple[str, str]:
    """A URI of the model that will mean the same tomorrow, and where its files are."""
    if name is None:
        return f"{RUN_SCHEME}{run_id}", f"{client.get_run(str(run_id)).info.artifact_uri}/{MODEL}"
    if alias is not None:
        found = client.get_model_version_by_alias(name, alias)
    else:
        found = client.get_model_version(name, str(version))
    # Not by its models:/ URI, which MLflow would look up in the registry of the whole process.
    location = client.get_model_version_download_uri(name, found.version)
    return f"{SCHEME}{name}/{found.version}", location


def _download(location: str, tracking_uri: str, into: Path) -> Path:
    import mlflow

    return Path(
        mlflow.artifacts.download_artifacts(
            artifact_uri=location, dst_path=str(into), tracking_uri=tracking_uri
        )
    )
