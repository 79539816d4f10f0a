from dataclasses import replace
from pathlib import Path

import pytest

from ray_diffusion.errors import ConfigError
from ray_diffusion.tracking.client import connect
from ray_diffusion.tracking.identity import (
    PARENT_TAG,
    SWEEP_KEY_TAG,
    SWEEP_TAG,
    RunIdentity,
    tracking_uri,
)
from ray_diffusion.tracking.run import find_or_create


def test_the_config_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there:5000")
    assert tracking_uri("http://here:5000", "runs") == ("http://here:5000", None)
    assert tracking_uri(None, "s3://bucket") == ("http://there:5000", None)


def test_local_storage_holds_the_database_and_the_artifacts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    expected = (f"sqlite:///{tmp_path}/runs/mlflow.db", f"{tmp_path}/runs/mlartifacts")
    assert tracking_uri(None, "runs") == expected


def test_artifacts_of_a_configured_database_lie_beside_it() -> None:
    uri = "sqlite:////data/all.db"
    assert tracking_uri(uri, "s3://bucket") == (uri, "/data/mlartifacts")


def test_remote_storage_needs_a_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match=r"tracking\.uri: must be given when run\.storage_url"):
        tracking_uri(None, "s3://bucket/runs")


@pytest.mark.parametrize("uri", ["file:///data/mlruns", "./mlruns", "/data/mlruns"])
def test_a_directory_is_no_tracking_uri(uri: str) -> None:
    with pytest.raises(ConfigError, match="a database, not a directory"):
        tracking_uri(uri, "runs")


def test_a_trial_is_below_its_sweep_whichever_is_recorded_first(identity: RunIdentity) -> None:
    key = f"{identity.run_key}-sweep"
    tags = dict(identity.tags) | {SWEEP_TAG: "schedules", SWEEP_KEY_TAG: key}
    child = find_or_create(replace(identity, tags=tags))
    parent = find_or_create(replace(identity, name="schedules", run_key=key))
    query = f"tags.`{PARENT_TAG}` = '{parent.run_id}'"
    found = connect(identity.uri).search_runs([child.experiment_id], query)
    assert [run.info.run_id for run in found] == [child.run_id]
    assert found[0].data.tags["git.commit"] == "abc"


def test_a_run_without_a_parent_says_nothing_of_one(identity: RunIdentity) -> None:
    found = find_or_create(replace(identity, run_key=f"{identity.run_key}-alone"))
    assert PARENT_TAG not in connect(identity.uri).get_run(found.run_id).data.tags


def test_the_password_of_a_uri_is_not_in_what_python_prints() -> None:
    identity = RunIdentity("digits", "key", "tests", "http://me:secret@mlflow")
    assert "secret" not in repr(identity)
