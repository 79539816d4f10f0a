"""A run whose driver is killed or stopped ends with the bytes of the undisturbed one."""

import json
import signal
from pathlib import Path

import pytest
from chaos_runs import LAST, assert_same_curves, assert_same_end, checkpoints, command
from local_cluster import Cluster, wait_for

pytestmark = pytest.mark.ray


def test_a_killed_driver_is_continued_by_the_same_command(
    cluster: Cluster, undisturbed: Path, tmp_path: Path
):
    training = cluster.start(*command(tmp_path))
    wait_for(lambda: len(checkpoints(tmp_path)) >= 2, "two checkpoints")
    training.kill()
    training.communicate()
    wait_for(lambda: not cluster.train_workers(), "the workers of the dead driver to end")
    assert not (tmp_path / "digits" / LAST).exists()
    again = cluster.run(*command(tmp_path))
    assert again.returncode == 0, again.stderr
    assert_same_end(tmp_path / "digits", undisturbed)
    assert_same_curves(tmp_path / "digits", undisturbed)


def test_a_stopped_run_saves_first_and_is_continued_by_the_same_command(
    cluster: Cluster, undisturbed: Path, tmp_path: Path
):
    # Checkpoints of its own only at the end: what is there after the stop is the stop's.
    late = "training.checkpoint_every_images=1_000_000"
    training = cluster.start(*command(tmp_path, late))
    spool = tmp_path / "digits/spool/train.jsonl"
    wait_for(lambda: spool.exists() and spool.read_bytes().count(b"\n") >= 2, "two log lines")
    training.send_signal(signal.SIGTERM)
    _, err = training.communicate(timeout=240)
    assert training.returncode == 75, err
    assert "the same command continues" in err
    assert len(checkpoints(tmp_path)) == 1
    assert json.loads((tmp_path / "digits/summary.json").read_text())["status"] == "preempted"
    again = cluster.run(*command(tmp_path, late))
    assert again.returncode == 0, again.stderr
    assert_same_end(tmp_path / "digits", undisturbed)


def test_a_finished_run_says_so(cluster: Cluster, undisturbed: Path):
    again = cluster.run(*command(undisturbed.parent))
    assert again.returncode == 0, again.stderr
    assert "already finished" in again.stdout
    assert "finished after 12,800 images, 200 steps" in again.stdout
