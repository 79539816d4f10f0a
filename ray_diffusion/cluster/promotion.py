"""A model that was evaluated becomes the one that an alias stands for, if it is better."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray_diffusion.cluster import record, summary
from ray_diffusion.cluster.exported import describe, folder_of
from ray_diffusion.errors import UsageError
from ray_diffusion.evaluation.compare import DRAWING, FINGERPRINTS, beats
from ray_diffusion.storage import Directory
from ray_diffusion.tracking.promotion import Champion, Version, promote, upload
from ray_diffusion.tracking.registry import RUN_SCHEME, SCHEME, default_uri

KEPT = ("num_images", *DRAWING, *(f"{name}_fingerprint" for name in FINGERPRINTS))


def name_for(model: str, asked: str | None, configured: str | None) -> str:
    """The name under which a model is registered, where it can be.

    Args:
        model: A run's directory or URL, ``mlflow:RUN_ID`` or ``models:/NAME/VERSION``.
        asked: The name that the user gives.
        configured: The run's ``tracking.registered_model``.

    Returns:
        The name.

    Raises:
        UsageError: If there is none, or another one, or the model is of no run.
    """
    if model.startswith(SCHEME):
        name = re.split("[/@]", model.removeprefix(SCHEME))[0]
        if asked not in (None, name):
            raise UsageError(f"registered_model: {model} is registered as {name}, got {asked}")
        return name
    if not model.startswith(RUN_SCHEME) and summary.read(Directory(model)) is None:
        raise UsageError(
            f"promote: {model} is no trained run; give its directory, mlflow:RUN_ID, or a "
            "registered model"
        )
    name = asked or configured
    if name is None:
        raise UsageError("promote: the run has no tracking.registered_model; give registered_model")
    return name


def registered(model: str, source: str, files: str, name: str) -> Version:
    """The version that a model is, registered if it is not.

    Args:
        model: As of ``name_for``.
        source: The checkpoint, or what of MLflow the model is for good.
        files: The files of a model from MLflow.
        name: The registered model's name.

    Returns:
        The version.

    Raises:
        StorageError: If the checkpoint is gone or damaged.
        TrackingError: If MLflow cannot be reached.
    """
    if source.startswith(SCHEME):
        return Version(default_uri(), name, source.rpartition("/")[2])
    if source.startswith(RUN_SCHEME):
        run_id, path = source.removeprefix(RUN_SCHEME), Path(files)
        return upload(default_uri(), name, run_id, files, folder_of(path), describe(path))
    return record.add_version(Directory(model), source, name)


def promoted(
    version: Version, alias: str, metric: str, facts: Mapping[str, Any], options: str
) -> str:
    """Write an evaluation down with a version, and move an alias to it if it is the better one.

    Args:
        version: What was evaluated.
        alias: The alias, such as ``champion``.
        metric: The figure that decides.
        facts: As ``evaluation.json`` holds them.
        options: The command's ``key=value`` that measure another model in the same way.

    Returns:
        A line that says who has the alias now, and why.

    Raises:
        UsageError: If the champion was not measured in the same way; the line has the command.
        TrackingError: If MLflow cannot be reached.
    """
    short = ("value", "count", "better")
    figures = {n: {key: f[key] for key in short} for n, f in facts["figures"].items()}
    ours = {key: facts[key] for key in KEPT} | {"model": version.uri, "figures": figures}

    def wins(champion: Champion | None) -> bool:
        if champion is None:
            return beats(ours, None, metric)
        uri = champion.version.uri
        try:
            if champion.evaluation is None:
                raise UsageError(f"{uri} has the alias {alias} and was never measured")
            return beats(ours, champion.evaluation, metric)
        except UsageError as error:
            at = version.tracking_uri
            home = "" if at == default_uri() else f"MLFLOW_TRACKING_URI={shlex.quote(at)} "
            command = f"python -m ray_diffusion.evaluate {uri} promote={alias} {options}"
            raise UsageError(f"{error}; to measure {uri} so: {home}{command}") from error

    beats(ours, None, metric)  # a figure that was not measured is refused before anyone is asked
    former, moves = promote(version, alias, ours, wins)
    value = f"{figures[metric]['value']:.4g}"
    head = f"{SCHEME}{version.name}@{alias}"
    if former is None and not moves:
        return f"{head} is no version yet: {metric} of version {version.number} is no number"
    if former is None or former.version == version:
        return f"{head} is version {version.number}: {metric} {value}"
    assert former.evaluation is not None
    other = f"{former.evaluation['figures'][metric]['value']:.4g}"
    if moves:
        return (
            f"{head} is version {version.number}: {metric} {value}, "
            f"version {former.version.number} had {other}"
        )
    return (
        f"{head} stays version {former.version.number}: {metric} {other}, "
        f"version {version.number} has {value}"
    )
