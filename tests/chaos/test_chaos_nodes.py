"""Nodes are killed, drained and joined while a run trains on them."""

import json
import os
import signal
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest
from chaos_runs import (
    ENDLESS,
    assert_same_curves,
    assert_same_end,
    assert_same_losses,
    checkpoints,
    command,
    images_saved,
    logged,
    straight_to,
)
from local_cluster import Cluster, joined_node, running_cluster, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.chaos]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Cluster]:
    """A head node of one CPU, for nodes to join."""
    with running_cluster(tmp_path / "head", cpus=1) as cluster:
        yield cluster


def test_a_run_outlives_its_nodes_and_then_its_head(
    small: Cluster, undisturbed: Path, tmp_path: Path
):
    run = tmp_path / "digits"
    with joined_node(small, 1) as node:
        training = small.start(*command(tmp_path))
        wait_for(lambda: len(checkpoints(tmp_path)) >= 2, "two checkpoints")
        os.kill(node.raylet, signal.SIGKILL)
    wait_for(lambda: not small.train_workers(), "the workers to end")
    saved = images_saved(tmp_path)
    assert not (run / "summary.json").exists()
    with joined_node(small, 1):
        wait_for(lambda: images_saved(tmp_path) > saved, "the run to go on by itself")
        small.head.kill()
        _, err = training.communicate(timeout=400)
    assert training.returncode == 3, err
    [error] = [line for line in err.splitlines() if line.startswith("error:")]
    assert "lost the Ray cluster" in error
    assert "Traceback" not in err
    with running_cluster(tmp_path / "another head") as cluster:
        again = cluster.run(*command(tmp_path))
        assert again.returncode == 0, again.stderr
    assert_same_end(run, undisturbed)
    assert_same_curves(run, undisturbed)


def test_an_elastic_run_shrinks_and_grows_with_its_cluster(
    small: Cluster, cluster: Cluster, tmp_path: Path
):
    # A rate so low that rounding is not amplified: a loss then tells which examples it is of.
    elastic = [*ENDLESS, "cluster.num_workers=[1,2]", "optim.lr=1e-6"]

    def trains_with(workers: int) -> bool:
        return [size for _, size in logged(tmp_path, "train/workers")][-1:] == [workers]

    with joined_node(small, 1) as node:
        training = small.start(*command(tmp_path, *elastic))
        wait_for(lambda: trains_with(2) and checkpoints(tmp_path), "two workers")
        os.kill(node.raylet, signal.SIGKILL)
    wait_for(lambda: trains_with(1), "one worker")
    with joined_node(small, 1):
        wait_for(lambda: trains_with(2), "two workers again")
        training.send_signal(signal.SIGTERM)
        _, err = training.communicate(timeout=240)
    assert training.returncode == 75, err
    sizes = [size for _, size in logged(tmp_path, "train/workers")]
    assert [size for size, _ in groupby(sizes)] == [2, 1, 2]

    one = ["cluster.num_workers=1", "optim.lr=1e-6"]
    straight_to(images_saved(tmp_path), cluster, tmp_path / "alone", *one)
    assert_same_losses(logged(tmp_path), logged(tmp_path / "alone"), rel=1e-5)


def test_a_drained_node_has_the_run_save_and_go_on_elsewhere(
    small: Cluster, cluster: Cluster, tmp_path: Path
):
    never = "training.checkpoint_every_images=1_000_000_000"
    with joined_node(small, 1) as leaving:
        training = small.start(*command(tmp_path, *ENDLESS, never))
        wait_for(lambda: logged(tmp_path), "metrics")
        assert leaving.train_workers()
        drained = small.ray(
            *("drain-node", "--node-id", leaving.name, "--address", small.env["RAY_ADDRESS"]),
            *("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "wanted elsewhere"),
            *("--deadline-remaining-seconds", "15"),
        )
        assert drained.returncode == 0, drained.stderr
        wait_for(lambda: checkpoints(tmp_path), "a checkpoint before the end of the node")
        assert leaving.train_workers()
        wait_for(lambda: not leaving.train_workers(), "the end of the node")
    with joined_node(small, 1):
        wait_for(lambda: len(small.train_workers()) == 2, "another group")
        count = len(logged(tmp_path))
        wait_for(lambda: len(logged(tmp_path)) > count, "the run to go on")
        training.send_signal(signal.SIGTERM)
        _, err = training.communicate(timeout=240)
    assert training.returncode == 75, err
    assert json.loads((tmp_path / "digits/summary.json").read_text())["restarts"] == 1
    # At once, and again and again while there is time: what workers do after the last is lost.
    assert err.count("1 of the run's nodes are being drained: saving") > 1
    straight = straight_to(images_saved(tmp_path), cluster, tmp_path / "straight", never)
    assert_same_end(tmp_path / "digits", straight, checkpoints(tmp_path)[-1].parent.name)
    assert_same_losses(logged(tmp_path), logged(tmp_path / "straight"), rel=1e-6)
