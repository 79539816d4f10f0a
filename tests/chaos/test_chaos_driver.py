"""The controller and the driver are killed."""

import json
import os
import random
import signal
from pathlib import Path

import pytest
from chaos_runs import assert_same_curves, assert_same_end, checkpoints, command, images_saved
from local_cluster import Cluster, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.chaos]


def test_a_killed_controller_is_started_again(cluster: Cluster, undisturbed: Path, tmp_path: Path):
    training = cluster.start(*command(tmp_path))
    wait_for(lambda: len(checkpoints(tmp_path)) >= 2, "two checkpoints")
    (controller,) = cluster.processes(b"TrainController")
    os.kill(controller, signal.SIGKILL)
    _, err = training.communicate(timeout=400)
    assert training.returncode == 0, err
    assert json.loads((tmp_path / "digits/summary.json").read_text())["restarts"] == 1
    assert_same_end(tmp_path / "digits", undisturbed)
    assert_same_curves(tmp_path / "digits", undisturbed)


@pytest.mark.filterwarnings("ignore")  # MLflow's own, at import
def test_a_driver_killed_three_times_leaves_one_run_and_the_same_end(
    cluster: Cluster, undisturbed: Path, tmp_path: Path
):
    run = tmp_path / "digits"
    chance = random.Random(0)
    early, middle, late = 0, chance.randrange(1, 5), chance.randrange(5, 9)
    keys = set()
    for moment in (early, middle, late):
        training = cluster.start(*command(tmp_path))
        wait_for(lambda: (run / "lease.json").exists(), "the launch")
        wait_for(lambda m=moment: images_saved(tmp_path) >= 1_280 * m, f"checkpoint {moment}")
        wait_for(lambda: (run / "run.json").exists(), "the run's key")
        training.kill()
        training.communicate()
        keys.add(json.loads((run / "run.json").read_text())["run_key"])
    again = cluster.run(*command(tmp_path))
    assert again.returncode == 0, again.stderr
    assert_same_end(run, undisturbed)
    assert_same_curves(run, undisturbed)

    from mlflow import MlflowClient

    origin = json.loads((run / "run.json").read_text())
    assert keys == {origin["run_key"]}
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    [experiment] = client.search_experiments(filter_string="name = 'ray_diffusion'")
    [record] = client.search_runs([experiment.experiment_id])
    assert record.info.run_id == origin["mlflow_run_id"]
    assert record.info.status == "FINISHED"
    steps = [p.step for p in client.get_metric_history(record.info.run_id, "train/loss")]
    assert len(steps) == len(set(steps))
    assert set(steps) >= set(range(640, 12_801, 640))
