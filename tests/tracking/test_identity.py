from pathlib import Path

import pytest

from ray_diffusion.errors import ConfigError
from ray_diffusion.tracking.identity import lineage_tags, tracking_uri


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


def test_lineage_names_versions_host_and_command(monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["python", "-m", "ray_diffusion.train", "tracking.uri=https://me:secret@mlflow"]
    monkeypatch.setattr("sys.orig_argv", command)
    tags = lineage_tags()
    assert tags["version.torch"].startswith("2.")
    assert {"host", "version.python", "version.ray", "version.mlflow"} <= tags.keys()
    assert tags["command"].endswith("-m ray_diffusion.train tracking.uri=https://me:***@mlflow")


def test_lineage_does_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert not {name for name in lineage_tags() if name.startswith("git")}
