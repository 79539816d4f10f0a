"""A run that starts again from its page."""

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from local_cluster import TINY, Cluster

from ray_diffusion import config as configs
from ray_diffusion import errors, train
from ray_diffusion.cluster.plan import prepare
from ray_diffusion.cluster.reproduce import COMPARED, Reproduction
from ray_diffusion.config import Config
from ray_diffusion.tracking.client import connect
from ray_diffusion.tracking.identity import RunIdentity
from ray_diffusion.tracking.run import find_or_create

# MLflow's models of its own tables, read where the store is in this process.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

SHORT = [*TINY, "training.total_images=1_280", "training.validate_every_images=1_280"]
LAST = "checkpoint-000000001280"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def page_of(config: Config, uri: str, **tags: str) -> str:
    """The id of a run of MLflow that has a config and some tags."""
    home = Path(uri.removeprefix("sqlite:///")).parent
    identity = RunIdentity("digits", "key", "tests", uri, f"{home}/mlartifacts", tags=tags)
    run = find_or_create(identity)
    connect(uri).log_text(run.run_id, configs.dump(config), "config.yaml")
    return run.run_id


def test_a_page_is_looked_for_where_a_new_run_would_have_one(tmp_path: Path):
    config = configs.load(["digits", "run.seed=7"])
    for place in ("runs", "other"):
        run_id = page_of(config, f"sqlite:///{tmp_path}/{place}/mlflow.db")
        typed = {} if place == "runs" else {"run.storage_url": place}
        assert Reproduction().fetch(f"mlflow:{run_id}", typed) == configs.dump(config)
        typed = {"tracking.uri": f"sqlite:///{tmp_path}/{place}/mlflow.db"}
        assert Reproduction().fetch(f"mlflow:{run_id}", typed) == configs.dump(config)


def test_what_differs_from_the_page_is_told_in_a_line_each(tmp_path: Path):
    plan = prepare(configs.load(["digits"]))
    here = {**plan.identity.tags, "git.commit": "abc", "git.diff": "none"}
    there = {tag: here[tag] for tag in COMPARED}
    there |= {"ray_diffusion.dataset_fingerprint": "other", "git.diff": "0123456789ab"}
    del there["environment.digest"]  # a page from before it was told
    again = Reproduction()
    assert again.differences(here) == []
    run_id = page_of(plan.config, plan.identity.uri, host="another", **there)
    again.fetch(f"mlflow:{run_id}", {})
    data, code = again.differences(here)
    fingerprint = here["ray_diffusion.dataset_fingerprint"]
    assert data.endswith(f"ray_diffusion.dataset_fingerprint was other, is {fingerprint}")
    assert code.endswith("git.diff was 0123456789ab, is none")
    without_git = {tag: value for tag, value in here.items() if not tag.startswith("git")}
    assert any("git.commit was abc, is unknown" in told for told in again.differences(without_git))


def test_the_config_of_a_page_is_printed_without_a_cluster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    uri = f"sqlite:///{tmp_path}/runs/mlflow.db"
    run_id = page_of(configs.load(["digits", "run.seed=7"]), uri)
    with pytest.raises(SystemExit):
        train.main([f"mlflow:{run_id}", "--print-config", "optim.lr=0.5"])
    printed = configs.from_yaml(capsys.readouterr().out, "-")
    assert (printed.run.name, printed.run.seed, printed.optim.lr) == ("digits-again", 7, 0.5)


def test_each_way_to_have_no_page_has_one_line_and_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    uri = f"sqlite:///{tmp_path}/runs/mlflow.db"
    bare = find_or_create(RunIdentity("digits", "key", "tests", uri, f"{tmp_path}/mlartifacts"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        down = f"tracking.uri=http://127.0.0.1:{free.getsockname()[1]}"
    tries = {
        (f"mlflow:{'0' * 32}",): 2,
        (f"mlflow:{bare.run_id}",): 2,
        ("mlflow:", "run.storage_url=nowhere"): 2,
        (f"mlflow:{bare.run_id}", down): 3,
    }
    for argv, code in tries.items():
        assert errors.run(train.main, list(argv)) == code
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith("error: MLflow at ")


@pytest.mark.ray
def test_a_run_starts_again_from_its_page_and_ends_with_the_same_bytes(
    cluster: Cluster, tmp_path: Path
):
    def trained(*arguments: str) -> str:
        process = cluster.start("ray_diffusion.train", *arguments, cwd=tmp_path)
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        return err

    trained("digits", *SHORT, "run.seed=7")
    first = tmp_path / "runs" / "digits"
    origin = json.loads((first / "run.json").read_text())
    assert origin["attempts"] == 1
    told = trained(f"mlflow:{origin['mlflow_run_id']}", "run.name=second")
    for tag in ("dataset_fingerprint", "environment.digest", "version.torch", "hardware.cpu"):
        assert tag not in told  # others may edit this work tree meanwhile: not so git's
    second = tmp_path / "runs" / "second"
    for name in ("model.safetensors", "ema.safetensors"):
        assert (first / LAST / name).read_bytes() == (second / LAST / name).read_bytes()

    client = connect(f"sqlite:///{tmp_path}/runs/mlflow.db")
    page = client.get_run(origin["mlflow_run_id"])
    names = {file.path for file in client.list_artifacts(page.info.run_id)}
    assert {"config.yaml", "run.json", "environment.txt", "model"} <= names
    assert ("git.diff" in names) == (page.data.tags.get("git.dirty") == "true")
    assert page.data.tags["environment.digest"] == origin["environment.digest"]
    assert page.data.tags["hardware.cluster"] == "nodes: 1, CPUs: 2"
    assert page.data.metrics["run/attempts"] == 1
    summary = json.loads((first / "summary.json").read_text())
    assert page.data.metrics["run/cpu_hours"] == summary["cpu_hours"] > 0
    assert page.data.metrics["run/gpu_hours"] == 0


@pytest.mark.ray
def test_a_password_in_the_environment_is_written_nowhere(cluster: Cluster, tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{free.getsockname()[1]}"
    uri = {"MLFLOW_TRACKING_URI": f"http://me:hunter2@{where}"}
    process = replace(cluster, env=cluster.env | uri).start(
        "ray_diffusion.train", "digits", *SHORT, cwd=tmp_path
    )
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert f"http://me:***@{where}" in out
    assert "hunter2" not in out + err
    written = [file for file in (tmp_path / "runs" / "digits").rglob("*") if file.is_file()]
    logs = [
        file for kind in ("log", "out", "err") for file in Path(cluster.temp).rglob(f"*.{kind}")
    ]
    assert len(written) > 10
    assert logs
    assert [file for file in written + logs if b"hunter2" in file.read_bytes()] == []
    summary = json.loads((tmp_path / "runs" / "digits" / "summary.json").read_text())
    assert summary["tracking_uri"] == f"http://me:***@{where}"
