"""The MLflow run of an identity: found by its key, or made."""

import contextlib
import fcntl
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from ray_diffusion.config.passwords import without_passwords
from ray_diffusion.errors import TrackingError
from ray_diffusion.tracking.client import asked, connect, is_missing
from ray_diffusion.tracking.identity import KEY_TAG, PARENT_TAG, RunIdentity

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import RunData

PARAMS_PER_CALL = 100
"""MLflow refuses more in one request."""

PARAM_CHARACTERS = 6000
"""MLflow's limit for one value; whether it cuts or refuses longer ones is up to the server."""

FATE_S = 30.0
"""How long a server may go on with a request that nobody waits for any more: MLflow itself waits
20 s for a locked sqlite."""


@dataclass(frozen=True)
class Run:
    """A run that exists in MLflow."""

    uri: str
    experiment_id: str
    run_id: str
    steps: Mapping[str, int]
    """The latest step of each metric."""

    @property
    def url(self) -> str | None:
        """The run's page; None where no server serves one."""
        return run_url(self.uri, self.experiment_id, self.run_id)


def run_url(uri: str, experiment_id: str, run_id: str) -> str | None:
    """The page of a run; None where ``uri`` is a database and no server.

    >>> run_url("http://mlflow:5000/", "1", "abc")
    'http://mlflow:5000/#/experiments/1/runs/abc'
    """
    if not uri.startswith(("http://", "https://")):
        return None
    return f"{without_passwords(uri).rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"


def find_or_create(
    identity: RunIdentity, *, run_id: str | None = None, deadline_s: float | None = None
) -> Run:
    """The run of an identity, with its params and tags written; below its sweep's if it is a trial.

    Processes of one machine that ask at the same time get one run. Two machines nearly always do:
    the run that started first is taken and the other one is deleted.

    Args:
        identity: The run wanted.
        run_id: The id that it had, if known; used while that run exists.
        deadline_s: How long to wait, in seconds; None for as long as the calls take. A search that
            takes longer goes on in the background: the run it makes is found by the next one.

    Raises:
        TrackingError: If MLflow cannot be reached, refuses, or takes longer than the deadline.
    """
    if deadline_s is None:
        return _find_or_create(identity, run_id)
    outcome: list[Run | TrackingError] = []

    def search() -> None:
        try:
            outcome.append(_find_or_create(identity, run_id))
        except TrackingError as error:
            outcome.append(error)

    thread = threading.Thread(target=search, name="mlflow-run", daemon=True)
    thread.start()
    thread.join(deadline_s)
    if not outcome:
        raise TrackingError(
            f"MLflow at {identity.shown_uri} did not answer within {deadline_s:g} s"
        )
    if isinstance(outcome[0], TrackingError):
        raise outcome[0]
    return outcome[0]


def _find_or_create(identity: RunIdentity, run_id: str | None) -> Run:
    with asked(identity.uri):
        client = connect(identity.uri)
        if run_id is not None and (known := _by_id(client, identity.uri, run_id)):
            return known
        if identity.sweep is not None:
            parent = {PARENT_TAG: _find_or_create(identity.sweep, None).run_id}
            identity = replace(identity, tags=dict(identity.tags) | parent)
        with _one_at_a_time(identity.run_key) as last_asked:
            experiment_id = _experiment(client, identity)
            found = _only(client, experiment_id, identity.run_key)
            if found is None:
                found = _create(client, experiment_id, identity, last_asked)
            steps = _describe(client, found, identity)
        return Run(identity.uri, experiment_id, found, steps)


@contextlib.contextmanager
def _one_at_a_time(run_key: str) -> Iterator[FileIO]:
    """Keep this machine's processes from making the same run twice: MLflow has no unique key.

    Yields:
        A file that is theirs together: when MLflow was asked for the run and did not answer.
    """
    name = f"ray-diffusion-{os.getuid()}-{quote(run_key, safe='')}.lock"
    with (Path(tempfile.gettempdir()) / name).open("a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _create(
    client: "MlflowClient", experiment_id: str, identity: RunIdentity, last_asked: FileIO
) -> str:
    last_asked.seek(0)
    with contextlib.suppress(ValueError):  # nobody has asked, or was killed at it
        if abs(time.time() - float(last_asked.read())) < FATE_S:
            raise TrackingError(f"MLflow at {identity.shown_uri} may still be making the run")
    last_asked.truncate(0)
    last_asked.write(str(time.time()).encode())
    tags = dict(identity.tags) | {KEY_TAG: identity.run_key}
    made = client.create_run(experiment_id, run_name=identity.name, tags=tags).info.run_id
    last_asked.truncate(0)
    # Another machine may have made it too, since we looked.
    return _only(client, experiment_id, identity.run_key) or str(made)


def _by_id(client: "MlflowClient", uri: str, run_id: str) -> Run | None:
    try:
        run = client.get_run(run_id)
    except Exception as error:
        if is_missing(error):
            return None
        raise
    if run.info.lifecycle_stage != "active":
        return None
    return Run(uri, run.info.experiment_id, run_id, _latest_steps(run.data))


def _experiment(client: "MlflowClient", identity: RunIdentity) -> str:
    experiment = client.get_experiment_by_name(identity.experiment)
    if experiment is None:
        try:
            return client.create_experiment(identity.experiment, identity.artifact_location)
        except Exception:
            # Another process may have made it since we looked.
            experiment = client.get_experiment_by_name(identity.experiment)
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"experiment {identity.experiment!r} was deleted in MLflow; "
            "restore it or choose another tracking.experiment"
        )
    return str(experiment.experiment_id)


def _only(client: "MlflowClient", experiment_id: str, run_key: str) -> str | None:
    """The run of a key. Of several the one that has metrics, or else began first; others go."""
    found = client.search_runs([experiment_id], filter_string=f"tags.`{KEY_TAG}` = '{run_key}'")
    runs = sorted(found, key=lambda r: (not r.data.metrics, r.info.start_time, r.info.run_id))
    for surplus in runs[1:]:
        if not surplus.data.metrics:
            client.delete_run(surplus.info.run_id)
    return str(runs[0].info.run_id) if runs else None


def _describe(client: "MlflowClient", run_id: str, identity: RunIdentity) -> dict[str, int]:
    """Write the params and tags that the run lacks: MLflow refuses to change a param.

    Returns:
        The latest step of each of the run's metrics.
    """
    from mlflow.entities import Param, RunTag

    data = client.get_run(run_id).data
    tags = [RunTag(key, value) for key, value in _lacking(identity.tags, data.tags)]
    params = [
        Param(key, value[:PARAM_CHARACTERS])
        for key, value in _lacking(identity.params, data.params)
    ]
    for start in range(0, max(len(params), len(tags)), PARAMS_PER_CALL):
        piece = slice(start, start + PARAMS_PER_CALL)
        client.log_batch(run_id, params=params[piece], tags=tags[piece])
    return _latest_steps(data)


def _latest_steps(data: "RunData") -> dict[str, int]:
    return {metric.key: metric.step for metric in data.to_proto().metrics}


def _lacking(wanted: Mapping[str, str], present: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(key, value) for key, value in wanted.items() if key not in present]
