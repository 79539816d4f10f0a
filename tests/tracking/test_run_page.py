import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from ray_diffusion.errors import TrackingError, UsageError
from ray_diffusion.tracking.client import brief, connect
from ray_diffusion.tracking.identity import RunIdentity
from ray_diffusion.tracking.page import read_page
from ray_diffusion.tracking.run import Run, find_or_create


@pytest.fixture
def run(identity: RunIdentity, tmp_path: Path) -> Run:
    run = find_or_create(identity)
    (tmp_path / "config.yaml").write_text("run: {name: digits}  # naïve\n", encoding="utf-8")
    connect(run.uri).log_artifact(run.run_id, str(tmp_path / "config.yaml"))
    return run


def test_a_page_has_the_tags_and_the_config(run: Run) -> None:
    page = read_page(run.run_id, run.uri)
    assert page.tags["git.commit"] == "abc"
    assert page.config == "run: {name: digits}  # naïve\n"


@pytest.mark.parametrize("run_id", ["0" * 32, "nonsense", ""])
def test_a_run_that_is_not_there_is_the_users_mistake(run: Run, run_id: str) -> None:
    with pytest.raises(UsageError, match=f"MLflow at {run.uri} has no run '{run_id}'"):
        read_page(run_id, run.uri)


def test_a_run_without_a_config_is_none_of_ours(identity: RunIdentity) -> None:
    run = find_or_create(replace(identity, run_key=f"{identity.run_key}-bare"))
    with pytest.raises(UsageError, match=rf"has no config\.yaml of run {run.run_id}"):
        read_page(run.run_id, run.uri)


def test_no_database_is_made_to_look_into(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no run"):
        read_page("0" * 32, f"sqlite:///{tmp_path}/mlflow.db")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_down_is_told_without_its_password() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(TrackingError) as caught:
        read_page("0" * 32, f"http://me:secret@{where}")
    (line,) = str(caught.value).splitlines()
    assert f"MLflow at http://me:***@{where}: " in line
    assert "secret" not in line


def test_what_mlflow_says_of_a_failed_call_is_told_without_the_password() -> None:
    error = MlflowException("API request to http://me:secret@mlflow/api failed with code 500")
    assert brief(error) == "API request to http://me:***@mlflow/api failed with code 500"


# MLflow's models of its own tables, read where the store is in this process.
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
def test_a_page_whose_files_cannot_be_read_says_so(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run = find_or_create(RunIdentity("digits", "key", "tests", uri, f"{tmp_path}/artifacts"))
    (tmp_path / "config.yaml").write_bytes(b"\xff")
    connect(uri).log_artifact(run.run_id, str(tmp_path / "config.yaml"))
    with pytest.raises(TrackingError, match=f"has run {run.run_id}, not its files: "):
        read_page(run.run_id, uri)
    shutil.rmtree(tmp_path / "artifacts")
    with pytest.raises(UsageError, match=r"has no config\.yaml"):
        read_page(run.run_id, uri)
