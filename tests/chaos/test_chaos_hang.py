"""A worker stands still, neither dead nor alive."""

import json
import os
import signal
from pathlib import Path

import pytest
from chaos_runs import assert_same_curves, assert_same_end, checkpoints, command
from local_cluster import Cluster, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.chaos]


def writes_metrics(pid: int, storage: Path) -> bool:
    """Whether a process is the first worker of a run."""
    return any(
        os.readlink(file) == str(storage / "digits/spool/train.jsonl")
        for file in Path(f"/proc/{pid}/fd").iterdir()
    )


@pytest.mark.parametrize("first", [True, False], ids=["the first", "another"])
def test_a_worker_that_hangs_is_taken_away_and_the_others_tell_where_they_waited(
    cluster: Cluster, undisturbed: Path, tmp_path: Path, first: bool
):
    run = tmp_path / "digits"
    training = cluster.start(*command(tmp_path, "cluster.stall_timeout_s=25"))
    wait_for(lambda: len(checkpoints(tmp_path)) >= 2, "two checkpoints")
    [hung] = [pid for pid in cluster.train_workers() if writes_metrics(pid, tmp_path) == first]
    os.kill(hung, signal.SIGSTOP)
    try:
        _, err = training.communicate(timeout=400)
        assert hung not in cluster.train_workers()
    finally:
        for pid in set(cluster.train_workers()) & {hung}:
            os.kill(pid, signal.SIGKILL)
    assert training.returncode == 0, err
    assert json.loads((run / "summary.json").read_text())["restarts"] == 1
    [stacks] = (run / "stacks").iterdir()
    rank = int(first)
    assert f"worker {rank} made no step for 25 s; its stack is in {stacks}" in err
    assert "train_step" in stacks.read_text()
    assert_same_end(run, undisturbed)
    assert_same_curves(run, undisturbed)
