"""Versions of a registered model: made from what runs export, and moved to an alias when better.

The files of a version never change: each is registered from a folder of its own, named by what it
holds (``models/DIGEST``), so a run that goes on for longer leaves its earlier versions alone. That
also makes ``register`` repeatable: the same run and folder are the same version.
"""

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ray_diffusion.tracking.client import asked, connect
from ray_diffusion.tracking.identity import KEY_TAG
from ray_diffusion.tracking.registry import SCHEME

if TYPE_CHECKING:
    from mlflow import MlflowClient

EVALUATION_TAG = "ray_diffusion.evaluation"


class Version(NamedTuple):
    """A version of a registered model.

    Attributes:
        tracking_uri: The MLflow that has it.
        name: The model's name.
        number: The version.
    """

    tracking_uri: str
    name: str
    number: str

    @property
    def uri(self) -> str:
        """``models:/NAME/VERSION``."""
        return f"{SCHEME}{self.name}/{self.number}"


def register(
    client: "MlflowClient", name: str, run_id: str, folder: str, tags: Mapping[str, str]
) -> str:
    """The version that is a folder of a run's artifacts, registered unless it is.

    Args:
        client: Of the MLflow that has the run.
        name: The registered model's name.
        run_id: The run that made the model.
        folder: The folder, which must never change.
        tags: What a new version is described by, beside the run's key and fingerprints.

    Returns:
        The version.

    Raises:
        Exception: Whatever MLflow and the libraries below it raise; this may then be repeated.
    """
    run = client.get_run(run_id)
    source = f"{run.info.artifact_uri}/{folder}"
    for version in client.search_model_versions(f"name='{name}' and run_id='{run_id}'"):
        if version.source == source:
            return str(version.version)
    try:
        client.create_registered_model(name)
    except Exception as error:
        if getattr(error, "error_code", None) != "RESOURCE_ALREADY_EXISTS":
            raise
    origin = {k: v for k, v in run.data.tags.items() if k == KEY_TAG or k.endswith("_fingerprint")}
    made = client.create_model_version(
        name, source, run_id, tags=origin | dict(tags), await_creation_for=0
    )
    return str(made.version)


def upload(
    uri: str, name: str, run_id: str, files: str, folder: str, tags: Mapping[str, str]
) -> Version:
    """Register a local directory as a run's model, at once.

    Args:
        uri: The MLflow that has the run.
        name: The registered model's name.
        run_id: The run that made the model.
        files: The directory.
        folder: The run's folder for it, which must never change.
        tags: As of ``register``.

    Returns:
        The version.

    Raises:
        TrackingError: If MLflow or its artifacts cannot be reached; this may then be repeated.
    """
    with asked(uri):
        client = connect(uri)
        client.log_artifacts(run_id, files, folder)
        return Version(uri, name, register(client, name, run_id, folder, tags))


class Champion(NamedTuple):
    """Who has an alias.

    Attributes:
        version: The version.
        evaluation: What ``promote`` wrote down with it; None if it never did.
    """

    version: Version
    evaluation: Mapping[str, Any] | None


def promote(
    version: Version,
    alias: str,
    evaluation: Mapping[str, Any],
    beats: Callable[[Champion | None], bool],
) -> tuple[Champion | None, bool]:
    """Write an evaluation down with a version, and give it an alias if it beats who has that.

    Args:
        version: The version that was evaluated.
        alias: The alias, such as ``champion``.
        evaluation: Plain data, kept as a tag of the version.
        beats: Whether this evaluation beats the present champion, or is good enough where there is
            none. Not called where it is this very version. What it raises leaves the alias alone.

    Returns:
        Who had the alias, and whether it moved.

    Raises:
        TrackingError: If MLflow cannot be reached; this may then be repeated.
    """
    uri, name, number = version
    with asked(uri):
        client = connect(uri)
        client.set_model_version_tag(name, number, EVALUATION_TAG, json.dumps(dict(evaluation)))
        champion = _champion(client, uri, name, alias)
        moves = (champion is None or champion.version != version) and beats(champion)
        if moves:
            client.set_registered_model_alias(name, alias, number)
        return champion, moves


def _champion(client: "MlflowClient", uri: str, name: str, alias: str) -> Champion | None:
    number = client.get_registered_model(name).aliases.get(alias)
    if number is None:
        return None
    said = client.get_model_version(name, str(number)).tags.get(EVALUATION_TAG)
    return Champion(Version(uri, name, str(number)), json.loads(said) if said else None)
