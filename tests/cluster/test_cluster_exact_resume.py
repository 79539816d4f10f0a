"""Whatever is killed, the run ends with the bytes of the undisturbed one."""

import json
import os
import signal
from pathlib import Path

import pytest
from local_cluster import TINY, Cluster, wait_for

from ray_diffusion.tracking.curve import read_metrics

pytestmark = pytest.mark.ray

LAST = "checkpoint-000000012800"


def command(storage: Path, *more: str) -> list[str]:
    return [
        "ray_diffusion.train",
        *TINY,
        "cluster.num_workers=2",
        f"run.storage_url={storage}",
        *more,
    ]


def checkpoints(storage: Path) -> list[Path]:
    return sorted((storage / "digits").glob("checkpoint-*/manifest.json"))


def assert_same_end(run: Path, undisturbed: Path) -> None:
    for name in ("model.safetensors", "ema.safetensors"):
        assert (run / LAST / name).read_bytes() == (undisturbed / LAST / name).read_bytes()
    # One point per metric and step, with the values of the undisturbed run.
    mine, theirs = (read_metrics(r / "spool" / "train.jsonl") for r in (run, undisturbed))
    for metric in ("train/loss", "train/grad_norm", "train/lr", "val/loss"):
        assert mine[metric] == theirs[metric]


def test_a_killed_worker_leaves_no_trace_in_the_weights(
    cluster: Cluster, undisturbed: Path, tmp_path: Path
):
    training = cluster.start(*command(tmp_path))
    wait_for(lambda: len(checkpoints(tmp_path)) >= 2, "two checkpoints")
    os.kill(cluster.train_workers()[-1], signal.SIGKILL)
    _, err = training.communicate(timeout=240)
    assert training.returncode == 0, err
    assert json.loads((tmp_path / "digits/summary.json").read_text())["restarts"] == 1
    assert_same_end(tmp_path / "digits", undisturbed)


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
    for name in ("model.safetensors", "ema.safetensors"):
        assert (tmp_path / "digits" / LAST / name).read_bytes() == (
            undisturbed / LAST / name
        ).read_bytes()


def test_a_finished_run_says_so(cluster: Cluster, undisturbed: Path):
    again = cluster.run(*command(undisturbed.parent))
    assert again.returncode == 0, again.stderr
    assert "already finished" in again.stdout
    assert "finished after 12,800 images, 200 steps" in again.stdout
