"""Runs that end otherwise than by finishing, and runs that are submitted as jobs."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from local_cluster import TINY, Cluster

from ray_diffusion.data.packing.embedded import digits
from ray_diffusion.data.packing.pack import pack
from ray_diffusion.data.packing.recipe import Recipe
from ray_diffusion.tracking.spool import Spool

pytestmark = pytest.mark.ray

REPOSITORY = Path(__file__).parents[2]


def summary(storage: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((storage / "digits/summary.json").read_text())
    return found


def test_a_diverged_run_ends_at_once_with_exit_code_4(cluster: Cluster, tmp_path: Path):
    done = cluster.run("ray_diffusion.train", *TINY, f"run.storage_url={tmp_path}", "optim.lr=1e30")
    assert done.returncode == 4, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "11 steps in a row without a finite loss and gradient" in errors[0]
    assert "lower optim.lr" in errors[0]
    assert summary(tmp_path)["status"] == "diverged"
    assert summary(tmp_path)["restarts"] == 0


def test_a_damaged_shard_ends_all_workers_at_once_with_exit_code_3(
    cluster: Cluster, tmp_path: Path
):
    pack(digits(None), Recipe(examples_per_shard=100), str(tmp_path / "data"))
    victim = sorted((tmp_path / "data").glob("train-*.tar"))[5]
    content = bytearray(victim.read_bytes())
    content[1000] ^= 1
    victim.write_bytes(content)
    done = cluster.run(
        "ray_diffusion.train",
        *TINY,
        "cluster.num_workers=2",
        f"run.storage_url={tmp_path}",
        f"data.dataset_url={tmp_path / 'data'}",
    )
    assert done.returncode == 3, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert victim.name in errors[0]
    assert "is damaged" in errors[0]
    assert summary(tmp_path)["restarts"] == 0


def test_a_run_that_another_process_trains_is_refused_by_its_name(cluster: Cluster, tmp_path: Path):
    spool = Spool(tmp_path / "digits/spool/driver.jsonl")
    done = cluster.run("ray_diffusion.train", *TINY, f"run.storage_url={tmp_path}")
    spool.close()
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.splitlines()
    assert f"another process is writing this run's metrics (pid {os.getpid()} on" in line
    assert not (tmp_path / "digits/config.yaml").exists()


def test_more_workers_than_the_cluster_holds_are_refused(cluster: Cluster, tmp_path: Path):
    done = cluster.run(
        "ray_diffusion.train", *TINY, f"run.storage_url={tmp_path}", "cluster.num_workers=9"
    )
    assert done.returncode == 3
    assert "cluster.num_workers=9 needs 9 CPUs, the cluster has 2" in done.stderr


def test_a_dry_run_checks_the_cluster_and_writes_nothing(cluster: Cluster, tmp_path: Path):
    storage = tmp_path / "not yet there"
    done = cluster.run("ray_diffusion.train", *TINY, f"run.storage_url={storage}", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "200 steps of 64 = 12,800 images" in done.stdout
    assert "fits, 1 CPUs per worker" in done.stdout
    assert re.search(r"expected +.+ for 200 steps", done.stdout)
    assert not storage.exists()


@pytest.mark.filterwarnings("ignore")  # MLflow's own, at import
def test_what_evaluate_finds_is_kept_with_the_run(cluster: Cluster, undisturbed: Path):
    done = cluster.run("ray_diffusion.evaluate", str(undisturbed), "num_images=130")
    assert done.returncode == 0, done.stderr
    figures = json.loads((undisturbed / "evaluation.json").read_text())["figures"]
    found = json.loads((undisturbed / "summary.json").read_text())
    for name in ("sample/class_accuracy", "sample/fd"):
        assert figures[name]["value"] == found["metrics"][name]
        assert figures[name]["count"] == 130
    assert figures["sample/class_accuracy"]["floor"] > 0.95

    from mlflow import MlflowClient

    run = MlflowClient(f"sqlite:///{undisturbed.parent}/mlflow.db").get_run(found["mlflow_run_id"])
    assert run.data.metrics["sample/fd"] == figures["sample/fd"]["value"]
    assert run.info.status == "FINISHED"


@pytest.mark.filterwarnings("ignore")  # MLflow's own, at import
def test_a_submitted_job_succeeds_and_its_run_is_in_mlflow(cluster: Cluster, tmp_path: Path):
    job = ["python", "-m", "ray_diffusion.train", *TINY, "run.name=job"]
    submit = subprocess.run(
        [
            *("ray", "job", "submit", "--address", cluster.dashboard, "--working-dir", "."),
            *("--", *job, f"run.storage_url={tmp_path}"),
        ],
        cwd=REPOSITORY,
        env=cluster.env | {"RAY_AUTH_MODE": "token"},
        capture_output=True,
        text=True,
    )
    assert submit.returncode == 0, submit.stdout + submit.stderr
    assert "finished after 12,800 images, 200 steps" in submit.stdout

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("ray_diffusion")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("job", "FINISHED")
    assert run.data.params["data.global_batch_size"] == "64"
    losses = client.get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in losses] == list(range(640, 12_801, 640))
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert artifacts >= {"config.yaml", "run.json", "loss.png", "samples", "model"}
