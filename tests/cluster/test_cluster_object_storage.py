"""Workers reach an object store with what the driver gives them, and nobody writes it down."""

import os
import secrets
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from local_cluster import TINY, Cluster

from ray_diffusion.data.packing.embedded import digits
from ray_diffusion.data.packing.pack import pack
from ray_diffusion.data.packing.recipe import Recipe
from ray_diffusion.storage import Directory

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
