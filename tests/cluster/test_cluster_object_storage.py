"""Workers reach an object store with what the driver gives them, and nobody writes it down."""

import os
import secrets
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from local_cluster import TINY, Cluster, free_ports

from ray_diffusion.data.packing.embedded import digits
from ray_diffusion.data.packing.pack import pack
from ray_diffusion.data.packing.recipe import Recipe
from ray_diffusion.storage import Directory
from ray_diffusion.tracking.client import connect

pytest_plugins = ["object_store"]
pytestmark = [
    pytest.mark.ray,
    # botocore and moto call what newer Pythons deprecate.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

NAMES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")


def test_workers_get_credentials_from_the_driver_and_nothing_holds_them_afterwards(
    cluster: Cluster, bucket: str, s3_server: int, tmp_path: Path
):
    pack(digits(None), Recipe(), f"{bucket}/digits")
    secret = secrets.token_hex(16)
    given = {name: os.environ[name] for name in NAMES} | {"AWS_SECRET_ACCESS_KEY": secret}
    assert not set(NAMES) & set(cluster.env)  # the workers' own environment has none of it
    done = replace(cluster, env=cluster.env | given).run(
        "ray_diffusion.train",
        *TINY,
        f"run.storage_url={bucket}/runs",
        f"data.dataset_url={bucket}/digits",
        "data.workers=1",
        f"run.storage_options=[s3.endpoint_url=http://127.0.0.1:{s3_server}]",
        f"cluster.forward_env=[{','.join(NAMES)}]",
        f"tracking.uri=sqlite:///{tmp_path}/mlflow.db",
    )
    assert done.returncode == 0, done.stderr
    assert secret not in done.stdout + done.stderr
    written = Directory(f"{bucket}/runs")
    files = {file.name: written.read(file.name) or b"" for file in written.walk()}
    assert b"forward_env" in files["digits/config.yaml"]
    assert not [name for name, content in files.items() if secret.encode() in content]
    for place in (tmp_path, Path(cluster.env["HOME"]), cluster.temp):
        found = subprocess.run(["grep", "-rl", secret, place], capture_output=True, text=True)
        assert found.stdout == ""


@pytest.mark.chaos
def test_a_lost_machine_takes_no_metrics_with_it(
    cluster: Cluster, bucket: str, s3_server: int, tmp_path: Path
):
    pack(digits(None), Recipe(), f"{bucket}/digits")
    names = (*NAMES, "XDG_CACHE_HOME")
    options = [
        *TINY,
        f"run.storage_url={bucket}/runs",
        f"data.dataset_url={bucket}/digits",
        "data.workers=1",
        f"run.storage_options=[s3.endpoint_url=http://127.0.0.1:{s3_server}]",
        f"cluster.forward_env=[{','.join(names)}]",
    ]
    [nowhere] = free_ports(1)
    launches = {
        "lost": ("training.total_images=1_920", f"tracking.uri=http://127.0.0.1:{nowhere}"),
        "new": (
            "training.total_images=3_840",
            "run.allow=[training.total_images]",
            f"tracking.uri=sqlite:///{tmp_path}/mlflow.db",
        ),
    }
    for machine, more in launches.items():
        given = {name: os.environ[name] for name in NAMES}
        given["XDG_CACHE_HOME"] = str(tmp_path / machine)
        there = replace(cluster, env=cluster.env | given)
        done = there.run("ray_diffusion.train", *options, *more)
        assert done.returncode == 0, done.stderr
    client = connect(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("ray_diffusion")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    for name in ("train/loss", "train/lr"):
        steps = [point.step for point in client.get_metric_history(run.info.run_id, name)]
        assert sorted(steps) == list(range(640, 3_841, 640))
    pictures = {file.path for file in client.list_artifacts(run.info.run_id, "samples")}
    assert pictures == {
        f"samples/{n:012d}{raw}.png" for n in (1_920, 3_840) for raw in ("", "-raw")
    }
