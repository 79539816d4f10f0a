"""What a launch writes into a run's records of itself."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_diffusion import config as configs
from ray_diffusion.cluster.attempt import begin, on_cluster
from ray_diffusion.cluster.environment import tracking_access
from ray_diffusion.cluster.files import RunFiles
from ray_diffusion.cluster.lineage import ORIGIN
from ray_diffusion.cluster.plan import prepare
from ray_diffusion.cluster.summary import Summary
from ray_diffusion.storage import Directory
from ray_diffusion.tracking import environment
from ray_diffusion.tracking.environment import lineage_files
from ray_diffusion.tracking.identity import RunIdentity
from ray_diffusion.tracking.tracker import Tracker

IDENTITY = RunIdentity(
    "digits", "key", "tests", "http://127.0.0.1:1", tags={"git.commit": "abc", "host": "here"}
)


@pytest.fixture
def run(tmp_path: Path) -> Directory:
    return Directory(str(tmp_path / "digits"))


@pytest.fixture
def files(run: Directory, tmp_path: Path) -> Iterator[RunFiles]:
    tracker = Tracker(tmp_path / "spool", "driver", IDENTITY)
    yield RunFiles(run, tmp_path / "spool", tracker)
    tracker.finish(deadline_s=0)


def test_each_launch_counts_and_the_key_stays(run: Directory):
    for number in (1, 2, 3):
        attempt = begin(run, IDENTITY)
        run.write(ORIGIN, attempt.origin("the-run"))
        assert json.loads(run.read(ORIGIN) or b"") == {
            "run_key": "key",
            "mlflow_run_id": "the-run",
            "attempts": number,
            "git.commit": "abc",
            "host": "here",
        }


def test_a_launch_counts_before_mlflow_is_asked(run: Directory):
    begin(run, IDENTITY)
    assert json.loads(run.read(ORIGIN) or b"")["attempts"] == 1
    assert begin(run, IDENTITY).number == 2


def test_a_run_from_before_launches_were_counted_goes_on(run: Directory):
    run.write(ORIGIN, json.dumps({"run_key": "key", "mlflow_run_id": None}))
    assert begin(run, IDENTITY).number == 1


def test_a_later_launch_writes_only_what_has_changed(
    run: Directory, files: RunFiles, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", "")  # no git: whether this work tree is clean is not the question
    begin(run, IDENTITY).write_lineage(run, files, lineage_files())
    first = run.read("environment.txt")
    begin(run, IDENTITY).write_lineage(run, files, lineage_files())
    assert run.names() == ["environment.txt", "run.json"]
    monkeypatch.setattr(environment, "environment", lambda: "torch==3\n")
    begin(run, IDENTITY).write_lineage(run, files, lineage_files())
    assert run.read("environment.txt") == first
    assert run.read("attempts/3/environment.txt") == b"torch==3\n"


@pytest.mark.parametrize(
    ("resources", "told"),
    [
        ({"node:10.0.0.1": 1.0, "node:__internal_head__": 1.0, "CPU": 2.0}, "nodes: 1, CPUs: 2"),
        (
            {
                "node:10.0.0.1": 1.0,
                "node:10.0.0.2": 1.0,
                "CPU": 192.0,
                "GPU": 16.0,
                "accelerator_type:H200": 1.0,
                "accelerator_type:A100": 1.0,
            },
            "nodes: 2, CPUs: 192, GPUs: 16 (A100, H200)",
        ),
        ({"node:10.0.0.1": 1.0, "GPU": 1.0}, "nodes: 1, CPUs: 0, GPUs: 1"),
    ],
)
def test_the_clusters_hardware_is_one_tag(resources: dict[str, float], told: str):
    assert on_cluster(IDENTITY, resources).tags == {
        "git.commit": "abc",
        "host": "here",
        "hardware.cluster": told,
    }


def test_hours_add_up_over_launches(run: Directory):
    keys = ["cluster.cpus_per_worker=3", "cluster.use_gpu=true"]
    config = configs.load(["digits", *keys])
    spent = begin(run, IDENTITY).cost(run, config, workers=2, seconds=3600.0)
    assert spent == {"run/attempts": 1, "run/cpu_hours": 6.0, "run/gpu_hours": 2.0}
    Summary("preempted", run.url, cpu_hours=6.0, gpu_hours=2.0).write(run)
    spent = begin(run, IDENTITY).cost(run, config, workers=1, seconds=1800.0)
    assert spent == {"run/attempts": 2, "run/cpu_hours": 7.5, "run/gpu_hours": 2.5}
    without = configs.override(config, {"cluster.use_gpu": False})
    spent = begin(run, IDENTITY).cost(run, without, workers=4, seconds=3600.0)
    assert spent["run/gpu_hours"] == 2.0


def test_the_hours_are_in_the_last_lines_once_there_are_some():
    assert "spent" not in Summary("failed", "runs/digits").block()
    told = Summary("finished", "runs/digits", cpu_hours=1.256, gpu_hours=0.5).block()
    assert "spent      1.26 CPU-hours, 0.50 GPU-hours" in told


def test_what_is_set_of_mlflow_travels(monkeypatch: pytest.MonkeyPatch):
    for name in ("URI", "USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    assert tracking_access() == {}
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0k3n")
    assert tracking_access() == {"MLFLOW_TRACKING_TOKEN": "t0k3n"}
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    assert len(tracking_access()) == 3


def test_a_plan_shows_no_password_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@mlflow:5000")
    plan = prepare(configs.load(["digits", f"run.storage_url={tmp_path}"]))
    assert plan.identity.uri == "http://me:hunter2@mlflow:5000"
    assert "tracking   http://me:***@mlflow:5000, experiment ray_diffusion" in plan.describe()
    told = [plan.describe(), plan.identity.tags, plan.identity.params, configs.dump(plan.config)]
    assert "hunter2" not in repr(plan) + repr(told)
