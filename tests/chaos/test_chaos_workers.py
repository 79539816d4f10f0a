"""Workers die by the dozen; the run's end and its records are those of the undisturbed one."""

import json
import os
import random
import signal
from pathlib import Path

import pytest
from chaos_runs import assert_same_curves, assert_same_end, checkpoints, command, images_saved
from local_cluster import Cluster, wait_for

pytestmark = pytest.mark.ray


@pytest.mark.chaos
def test_five_killed_workers_leave_no_trace(cluster: Cluster, undisturbed: Path, tmp_path: Path):
    chance = random.Random(0)
    training = cluster.start(*command(tmp_path, "cluster.max_failures=5"))
    for kill in range(1, 6):
        wait_for(lambda kill=kill: images_saved(tmp_path) >= 1_280 * (1 + kill), "a checkpoint")
        os.kill(chance.choice(cluster.train_workers()), signal.SIGKILL)
    _, err = training.communicate(timeout=400)
    assert training.returncode == 0, err
    summary = json.loads((tmp_path / "digits/summary.json").read_text())
    assert summary["restarts"] == 5
    assert_same_end(tmp_path / "digits", undisturbed)
    assert_same_curves(tmp_path / "digits", undisturbed)


def test_a_worker_that_gets_sigterm_has_all_of_them_save_and_stop(
    cluster: Cluster, undisturbed: Path, tmp_path: Path
):
    late = "training.checkpoint_every_images=1_000_000"
    training = cluster.start(*command(tmp_path, late))
    spool = tmp_path / "digits/spool/train.jsonl"
    wait_for(lambda: spool.exists() and spool.read_bytes().count(b"\n") >= 2, "two log lines")
    os.kill(cluster.train_workers()[-1], signal.SIGTERM)
    _, err = training.communicate(timeout=240)
    assert training.returncode == 75, err
    assert "the same command continues" in err
    assert len(checkpoints(tmp_path)) == 1
    again = cluster.run(*command(tmp_path, late))
    assert again.returncode == 0, again.stderr
    assert_same_end(tmp_path / "digits", undisturbed)
