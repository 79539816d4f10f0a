"""Workers die by the dozen; the run's end and its records are those of the undisturbed one."""

import json
import os
import random
import signal
from pathlib import Path

import pytest
from local_cluster import TINY, Cluster, wait_for

from ray_diffusion.tracking.curve import read_metrics

pytestmark = pytest.mark.ray

LAST = "checkpoint-000000012800"
CLOCKS = ("train/images_per_second", "train/data_wait_fraction", "train/mfu")


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
    for name in ("model.safetensors", "ema.safetensors", "optimizer.safetensors"):
        assert (run / LAST / name).read_bytes() == (undisturbed / LAST / name).read_bytes()


def assert_same_curves(run: Path, undisturbed: Path) -> None:
    """One point of each metric and step, to the last digit: so each step read the same examples."""
    mine, theirs = (read_metrics(r / "spool" / "train.jsonl") for r in (run, undisturbed))
    for metric in theirs.keys() - CLOCKS:
        assert mine[metric] == theirs[metric]


def test_five_killed_workers_leave_no_trace(cluster: Cluster, undisturbed: Path, tmp_path: Path):
    chance = random.Random(0)
    # Steps slow enough for five kills to find their run alive.
    training = cluster.start(*command(tmp_path, "cluster.max_failures=5"))
    for kill in range(1, 6):
        wait_for(lambda kill=kill: len(seen(tmp_path)) >= 1 + kill, "another checkpoint")
        os.kill(chance.choice(cluster.train_workers()), signal.SIGKILL)
    _, err = training.communicate(timeout=400)
    assert training.returncode == 0, err
    summary = json.loads((tmp_path / "digits/summary.json").read_text())
    assert summary["restarts"] == 5
    assert_same_end(tmp_path / "digits", undisturbed)
    assert_same_curves(tmp_path / "digits", undisturbed)


def seen(storage: Path) -> set[str]:
    """Every checkpoint there ever was, as the newest one's age tells."""
    newest = checkpoints(storage)
    count = int(newest[-1].parent.name[-12:]) // 1280 if newest else 0
    return {str(i) for i in range(count)}


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
