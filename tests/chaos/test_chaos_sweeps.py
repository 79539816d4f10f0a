"""The driver of a sweep is killed, MLflow goes away, trials are killed, the dashboard lies."""

import json
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from local_cluster import TINY, Cluster, running_cluster, wait_for
from mlflow_server import Server

from ray_diffusion.cluster.sweeping.journal import Journal
from ray_diffusion.storage import Directory
from ray_diffusion.tracking.client import connect
from ray_diffusion.tracking.curve import read_metrics

pytestmark = [pytest.mark.ray, pytest.mark.chaos]

# One after the other: who is stopped would else depend on who comes first.
FILE = """
name: chaotic
method: grid
early_terminate: {type: asha, grace: 0.2}
resources: {max_concurrent: 1, num_workers: %d}
confirm: {top: 2, seeds: 1, num_images: 128}
parameters:
  optim.lr: {values: [1e-3, 1e-5, 1e-2, 3e-5]}
"""
KEYS = [
    *(setting for setting in TINY if not setting.startswith(("training.total", "training.valid"))),
    "training.total_images=6_400",
    "training.validate_every_images=1_280",
]


def command(storage: Path, num_workers: int, *more: str) -> list[str]:
    file = storage / "chaotic.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(FILE % num_workers)
    return ["ray_diffusion.sweep", str(file), *KEYS, f"run.storage_url={storage}", *more]


def lines(storage: Path) -> list[dict[str, Any]]:
    file = storage / "chaotic/sweep.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def facts(storage: Path) -> dict[str, Any]:
    """What is to be the same whatever happens: of each trial all but the time it took."""
    sweep = lines(storage)[0]["sweep"]
    trials = Journal(Directory(str(storage / "chaotic")), sweep).trials
    return {t.name: (t.values, t.state, t.curve, t.figures, t.reason) for t in trials.values()}


def placement_groups(cluster: Cluster) -> list[str]:
    """The states of the cluster's placement groups that hold something."""
    script = (
        "import ray; ray.init(log_to_driver=False, logging_level='ERROR')\n"
        "from ray.util.placement_group import placement_group_table\n"
        "print(*[one['state'] for one in placement_group_table().values()])"
    )
    env = cluster.env | {"RAY_AUTH_MODE": "token"}
    done = subprocess.run(
        ["python", "-c", script], env=env, capture_output=True, text=True, check=True
    )
    return [state for state in done.stdout.split() if state != "REMOVED"]


def winner(out: str) -> str:
    return next(line for line in out.splitlines() if line.startswith("winner"))


@pytest.fixture(scope="module")
def quiet(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A sweep that nothing happens to, and its last lines."""
    storage = tmp_path_factory.mktemp("quiet")
    done = cluster.run(*command(storage, 1))
    assert done.returncode == 0, done.stderr
    return storage, done.stdout


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "mlflow").mkdir()
    one = Server(tmp_path / "mlflow")
    one.start()
    yield one
    one.kill()


@pytest.mark.filterwarnings("ignore")  # MLflow's own, at import
def test_a_driver_killed_three_times_and_an_outage_change_nothing(
    cluster: Cluster, quiet: tuple[Path, str], server: Server, tmp_path: Path
):
    chance = random.Random(0)
    sweep = command(tmp_path, 1, f"tracking.uri={server.uri}")
    told = 0
    server.kill()  # away from before the start, until after the second kill
    for launch in range(3):
        told += chance.randrange(2, 5)
        sweeping = cluster.start(*sweep)
        wait_for(
            lambda sweeping=sweeping, told=told: (
                sum("value" in line for line in lines(tmp_path)) >= told
                or sweeping.poll() is not None
            ),
            f"{told} figures",
        )
        sweeping.kill()
        sweeping.communicate()
        wait_for(lambda: not cluster.processes(b"ImplicitFunc"), "the end of the trials")
        if launch == 1:
            server.start()
    done = cluster.run(*sweep)
    assert done.returncode == 0, done.stderr
    assert facts(tmp_path) == facts(quiet[0])
    assert winner(done.stdout) == winner(quiet[1])
    wait_for(lambda: not cluster.processes(b"ImplicitFunc"), "the end of the trials")
    wait_for(lambda: not placement_groups(cluster), "the placement groups' end")

    client = connect(server.uri)
    experiment = client.get_experiment_by_name("ray_diffusion")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert runs.keys() == {"chaotic", *(f"chaotic/{name}" for name in facts(tmp_path))}
    parent = runs["chaotic"].info.run_id
    for name in facts(tmp_path):
        run = runs[f"chaotic/{name}"]
        assert run.data.tags["mlflow.parentRunId"] == parent
        assert run.info.status in ("FINISHED", "KILLED")
        spool = read_metrics(tmp_path / "chaotic" / name / "spool/train.jsonl")
        for metric in ("train/loss", "val/score"):
            assert server.points(run.info.run_id, metric) == spool[metric]
            steps = [step for step, _ in spool[metric]]
            assert steps == sorted(set(steps))


def test_beside_another_cluster_and_with_a_wrong_dashboard_nothing_is_left_behind(
    cluster: Cluster, quiet: tuple[Path, str], tmp_path: Path
):
    stale = {"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9"}
    with running_cluster(tmp_path / "second", environment=stale) as second:
        done = second.run(*command(tmp_path, 2))
        assert done.returncode == 0, done.stderr
        assert "stopped" in {state for _, state, *_ in facts(tmp_path).values()}
        assert winner(done.stdout) == winner(quiet[1])
        wait_for(lambda: not placement_groups(second), "the placement groups' end")


def test_a_killed_trial_of_two_workers_leaves_nothing_behind_and_goes_on(
    cluster: Cluster, tmp_path: Path
):
    sweeping = cluster.start(*command(tmp_path, 2))
    wait_for(
        lambda: any("value" in line for line in lines(tmp_path)) or sweeping.poll() is not None,
        "a first figure",
    )
    [trial] = cluster.processes(b"ImplicitFunc")
    os.kill(trial, signal.SIGKILL)  # and with it whoever would free what the workers held
    _, err = sweeping.communicate(timeout=500)
    assert sweeping.returncode == 0, err
    assert {state for _, state, *_ in facts(tmp_path).values()} <= {"finished", "stopped"}
    wait_for(lambda: not placement_groups(cluster), "the placement groups' end")
