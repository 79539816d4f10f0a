"""A run is launched while it is being trained, and right after its driver was killed."""

import getpass
from pathlib import Path

import pytest
from chaos_runs import assert_same_curves, assert_same_end, checkpoints, command
from local_cluster import Cluster, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.chaos]


def test_a_second_launch_is_refused_and_the_first_is_not_disturbed(
    cluster: Cluster, undisturbed: Path, tmp_path: Path
):
    first = cluster.start(*command(tmp_path))
    wait_for(lambda: (tmp_path / "digits/lease.json").exists(), "the first launch")
    second = cluster.run(*command(tmp_path))
    assert second.returncode == 2, second.stderr
    [error] = [line for line in second.stderr.splitlines() if line.startswith("error:")]
    assert f"run 'digits' is being trained by {getpass.getuser()}@" in error
    assert f"process {first.pid}," in error
    _, err = first.communicate(timeout=400)
    assert first.returncode == 0, err
    assert_same_end(tmp_path / "digits", undisturbed)
    assert_same_curves(tmp_path / "digits", undisturbed)


def test_after_a_killed_launch_the_next_one_does_not_wait(
    cluster: Cluster, undisturbed: Path, tmp_path: Path
):
    first = cluster.start(*command(tmp_path))
    wait_for(lambda: len(checkpoints(tmp_path)) >= 2, "two checkpoints")
    first.kill()
    first.communicate()
    assert (tmp_path / "digits/lease.json").exists()
    second = cluster.run(*command(tmp_path))
    assert second.returncode == 0, second.stderr
    assert "waiting up to" not in second.stderr
    assert not (tmp_path / "digits/lease.json").exists()
    assert_same_end(tmp_path / "digits", undisturbed)
    assert_same_curves(tmp_path / "digits", undisturbed)
