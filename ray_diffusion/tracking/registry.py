"""Models that are registered in MLflow, brought to this machine."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ray_diffusion.errors import TrackingError, UsageError
from ray_diffusion.tracking.client import brief, connect, is_missing, is_permanent
from ray_diffusion.tracking.identity import sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient

SCHEME = "models:/"
URI = re.compile(r"models:/(?P<name>[^/:]+)(?:@(?P<alias>[\w-]+)|/(?P<version>\d+))")


class Registered(NamedTuple):
    """A model that was brought to this machine.

    Attributes:
        uri: ``models:/NAME/VERSION``, which an alias moves away from but which itself stays.
        path: Its files.
    """

    uri: str
    path: Path


def fetch_model(uri: str, tracking_uri: str, into: Path) -> Registered:
    """Download a registered model.

    Args:
        uri: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.
        tracking_uri: The MLflow that has it.
        into: Where to; an empty directory.

    Returns:
        The model.

    Raises:
        UsageError: If there is no such model, version or alias.
        TrackingError: If MLflow or its artifacts cannot be reached.
    """
    wanted = URI.fullmatch(uri)
    if wanted is None:
        raise UsageError(f"{uri} is neither models:/NAME@ALIAS nor models:/NAME/VERSION")
    missing = UsageError(f"MLflow at {tracking_uri} has no {uri}")
    database = sqlite_path(tracking_uri)
    if database is not None and not database.exists():
        raise missing  # asking would make it
    try:
        client = connect(tracking_uri)
        version = _version(client, **wanted.groupdict())
    except Exception as error:
        if is_missing(error) or is_permanent(error):
            raise missing from error
        raise TrackingError(f"MLflow at {tracking_uri}: {brief(error)}") from error
    try:
        return Registered(
            f"{SCHEME}{wanted['name']}/{version}",
            _download(client, wanted["name"], version, tracking_uri, into),
        )
    except Exception as error:
        raise TrackingError(
            f"MLflow at {tracking_uri} has {uri}, but not its files: {brief(error)}"
        ) from error


def _version(client: "MlflowClient", name: str, alias: str | None, version: str | None) -> str:
    if alias is not None:
        return str(client.get_model_version_by_alias(name, alias).version)
    return str(client.get_model_version(name, str(version)).version)


def _download(
    client: "MlflowClient", name: str, version: str, tracking_uri: str, into: Path
) -> Path:
    import mlflow

    # Not by its models:/ URI, which MLflow would look up in the registry of the whole process.
    location = client.get_model_version_download_uri(name, version)
    return Path(
        mlflow.artifacts.download_artifacts(
            artifact_uri=location, dst_path=str(into), tracking_uri=tracking_uri
        )
    )
