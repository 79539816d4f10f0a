"""Sweeps as users start them, on a real cluster, with a real MLflow."""

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from local_cluster import TINY, Cluster, wait_for

pytestmark = pytest.mark.ray

FILE = """
name: tiny
method: grid
early_terminate: {type: asha, grace: 0.2}
resources: {max_concurrent: 1}
confirm: {top: 1, seeds: 1, num_images: 128}
parameters:
  optim.lr: {values: [1e-2, 1e-5, 1e30]}
"""


OWN = ("training.total_images", "training.validate_every_images", "sampler.")  # not TINY's
SHORT = [
    *(setting for setting in TINY if not setting.startswith(OWN)),
    "training.total_images=3_840",
    "training.validate_every_images=1_280",
]


def written(where: Path, more: str = "") -> str:
    file = where / "tiny.yaml"
    file.write_text(FILE + more)
    return str(file)


def command(file: str, storage: Path, *more: str) -> list[str]:
    return [
        "ray_diffusion.sweep",
        file,
        *SHORT,
        "optim.grad_clip=1e30",
        f"run.storage_url={storage}",
        *more,
    ]


def journal(storage: Path, name: str = "tiny") -> list[dict[str, Any]]:
    file = storage / name / "sweep.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.filterwarnings("ignore")  # MLflow's own, at import
def test_a_sweep_is_stopped_twice_goes_on_and_ends_with_a_winner(cluster: Cluster, tmp_path: Path):
    file = written(tmp_path)
    sweeping = cluster.start(*command(file, tmp_path))
    wait_for(
        lambda: any("value" in line for line in journal(tmp_path)) or sweeping.poll() is not None,
        "a first figure",
    )
    sweeping.send_signal(signal.SIGINT)
    out, err = sweeping.communicate(timeout=200)
    assert sweeping.returncode == 75, err
    assert "error: stopped; the same command continues the sweep" in err
    assert "report " in out
    assert (tmp_path / "tiny/report.html").exists()
    assert not any("end" in line for line in journal(tmp_path))

    poor = cluster.run(*command(written(tmp_path, "budget: {hours: 1e-4}"), tmp_path))
    assert poor.returncode == 5, poor.stderr
    assert "error: the budget is spent; a larger one continues the sweep" in poor.stderr
    assert (tmp_path / "tiny/report.html").exists()

    done = cluster.run(*command(written(tmp_path, "budget: {hours: 1}"), tmp_path))
    assert done.returncode == 0, done.stderr
    told = journal(tmp_path)
    assert {line["trial"]: line["end"] for line in told if "end" in line} == {
        "trial-0000": "finished",
        "trial-0002": "failed",
        "trial-0000-seed-1": "finished",
    }
    assert {line["trial"] for line in told if line.get("goes_on") is False} == {"trial-0001"}
    assert re.search(r"^failed +trial-0002: .*without a finite loss", done.stdout, re.MULTILINE), (
        done.stdout
    )
    assert "winner     trial-0000: optim.lr=0.01" in done.stdout
    assert "trial-0000 is best: sample/fd" in done.stdout

    again = cluster.run(*command(file, tmp_path, "--promote"))
    assert again.returncode == 0, again.stderr
    assert "already finished" in again.stdout
    assert "models:/tiny@champion is version 1" in again.stdout

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    [experiment] = client.search_experiments(filter_string="name = 'ray_diffusion'")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    names = [*(f"trial-000{n}" for n in range(3)), "trial-0000-seed-1"]
    assert runs.keys() == {"tiny", *(f"tiny/{name}" for name in names)}
    parent = runs.pop("tiny")
    assert parent.info.status == "FINISHED"
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"report.html", "curves.png", "quality.png", "sweep.yaml", "config.yaml"} <= files
    assert parent.data.metrics["sample/fd"] == runs["tiny/trial-0000"].data.metrics["sample/fd"]
    for run in runs.values():
        steps = [p.step for p in client.get_metric_history(run.info.run_id, "val/score")]
        assert steps == sorted(set(steps))


@pytest.mark.chaos  # not that anything is killed: 40 s are too long for every commit
def test_what_draws_alone_is_trained_once(cluster: Cluster, tmp_path: Path):
    file = tmp_path / "steps.yaml"
    file.write_text(
        "method: grid\nmetric: {name: sample/fd}\nearly_terminate: {type: none}\n"
        "confirm: {top: 0, num_images: 128}\n"
        "parameters:\n  sampler.num_inference_steps: {values: [2, 8]}\n"
    )
    done = cluster.run(*command(str(file), tmp_path))
    assert done.returncode == 0, done.stderr
    home = tmp_path / "steps"
    assert (home / "trained/model").exists()
    assert not list(home.glob("trial-*/checkpoint-*"))
    figures = {
        line["trial"]: line["figures"] for line in journal(tmp_path, "steps") if "end" in line
    }
    assert len(figures) == 2
    assert figures["trial-0000"]["sample/fd"] != figures["trial-0001"]["sample/fd"]
    look = re.search(r"^look +python -m (.*)$", done.stdout, re.MULTILINE)
    assert look is not None
    drawn = cluster.run(*look[1].split(), f"out={tmp_path}/grid.png")
    assert drawn.returncode == 0, drawn.stderr


def test_trials_that_do_not_fit_are_refused(cluster: Cluster, tmp_path: Path):
    more = "resources: {num_workers: 3, cpus_per_worker: 2}"
    file = tmp_path / "large.yaml"
    file.write_text(
        "method: grid\nconfirm: {top: 0}\nearly_terminate: {type: none}\n"
        f"parameters:\n  optim.lr: {{values: [3e-3, 1e-2]}}\n{more}\n"
    )
    done = cluster.run(*command(str(file), tmp_path))
    assert done.returncode == 2
    assert "error: resources: a trial needs 6 CPUs, the cluster has 2" in done.stderr
