import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from toy import BATCH, CPU, Killed, World, killed_at

from ray_diffusion import config
from ray_diffusion.config import Config
from ray_diffusion.errors import Preempted
from ray_diffusion.training.checkpoint import name_of
from ray_diffusion.training.loop import loop

FILES = [
    "config.yaml",
    "ema.safetensors",
    "manifest.json",
    "model.safetensors",
    "optimizer.safetensors",
    "state.json",
]


@pytest.fixture(scope="module")
def stopped(run: Config, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A run stopped after 7 steps, with checkpoints after 6 and 7."""
    world = World(tmp_path_factory.mktemp("stopped"))
    with pytest.raises(Preempted):
        world.train(run, stop_after=7)
    return world


def copied(world: World, to: Path) -> World:
    shutil.copytree(world.path, to)
    return World(to, dict(world.points))


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def assert_same_end(world: World, undisturbed: World) -> None:
    assert world.weights() == undisturbed.weights()
    assert world.points == undisturbed.points
    assert all(before == after for before, after in world.twice)


@pytest.mark.parametrize("steps", range(1, 10))
def test_a_stopped_run_has_a_checkpoint_and_ends_as_if_undisturbed(
    run: Config, world: World, undisturbed: World, steps: int
):
    with pytest.raises(Preempted, match=f"after {steps * BATCH} images, with a checkpoint"):
        world.train(run, stop_after=steps)
    assert world.run.names()[-1] == name_of(steps * BATCH)
    world.train(run)
    assert_same_end(world, undisturbed)
    assert not world.twice


def test_a_run_stopped_at_every_step_ends_as_if_undisturbed(
    run: Config, world: World, undisturbed: World
):
    for _ in range(9):
        with pytest.raises(Preempted):
            world.train(run, stop_after=1)
    assert world.train(run)["steps"] == 10
    assert_same_end(world, undisturbed)


def test_a_run_asked_to_stop_at_its_last_step_is_finished(
    run: Config, world: World, undisturbed: World
):
    assert world.train(run, stop_after=10)["steps"] == 10
    assert_same_end(world, undisturbed)


# Ten steps use the harness 27 times: should_stop and log in each, val/loss twice, five saves.
@given(st.lists(st.integers(1, 27), min_size=1, max_size=4))
@example([27])
@example([1, 1])
@settings(max_examples=15, deadline=None)
def test_a_run_killed_anywhere_ends_as_if_undisturbed(
    run: Config, undisturbed: World, kills: list[int]
):
    with tempfile.TemporaryDirectory() as scratch:
        world = World(Path(scratch, "run"))
        for call in kills:
            try:
                loop(run, killed_at(world, call), CPU)
            except Killed:
                continue
        world.train(run)
        assert_same_end(world, undisturbed)
        assert not world.warnings  # an unfinished checkpoint is no damage


def test_a_resumed_run_may_read_ahead_in_other_processes(
    run: Config, undisturbed: World, stopped: World, tmp_path: Path
):
    world = copied(stopped, tmp_path / "run")
    world.train(config.override(run, {"data.workers": 2}))
    assert_same_end(world, undisturbed)


@pytest.mark.parametrize("damage", [flip_a_byte, Path.unlink])
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_checkpoint_is_passed_over_and_the_run_ends_as_if_undisturbed(
    run: Config, undisturbed: World, stopped: World, tmp_path: Path, file: str, damage
):
    world = copied(stopped, tmp_path / "run")
    newest = name_of(7 * BATCH)
    assert sorted(p.name for p in (world.path / newest).iterdir()) == FILES
    damage(world.path / newest / file)
    world.train(run)
    assert_same_end(world, undisturbed)
    assert (7 * BATCH, "train/loss") in world.points
    assert world.twice  # step 7 was made again
    if (file, damage) == ("manifest.json", Path.unlink):
        assert not world.warnings  # it looks like one that was never finished
    else:
        assert len(world.warnings) == 1
        assert newest in world.warnings[0]
        # A flipped byte in the manifest may stand in the digest of any file.
        assert file in world.warnings[0] or file == "manifest.json"
        assert world.warnings[0].endswith("; it is passed over")


def test_a_damaged_checkpoint_does_not_crowd_out_a_whole_one(
    run: Config, undisturbed: World, stopped: World, tmp_path: Path
):
    world = copied(stopped, tmp_path / "run")
    (world.path / name_of(7 * BATCH) / "ema.safetensors").unlink()
    # The run goes on after step 6, and is stopped again before it comes to the damaged one.
    (world.path / name_of(7 * BATCH)).rename(world.path / name_of(9 * BATCH))
    with pytest.raises(Preempted):
        world.train(run, keep=1, stop_after=1)
    assert world.run.names() == [name_of(7 * BATCH)]
    world.train(run)
    assert_same_end(world, undisturbed)


def test_without_any_whole_checkpoint_a_run_begins_again(
    run: Config, undisturbed: World, stopped: World, tmp_path: Path
):
    world = copied(stopped, tmp_path / "run")
    for name in world.run.names():
        flip_a_byte(world.path / name / "model.safetensors")
    world.train(run)
    assert_same_end(world, undisturbed)
    assert len(world.warnings) == 2


def test_where_and_how_often_checkpoints_are_saved_does_not_change_the_weights(
    run: Config, world: World, undisturbed: World
):
    every_step = config.override(run, {"training.checkpoint_every_images": 1})
    world.train(every_step, keep=3)
    assert_same_end(world, undisturbed)
    assert world.run.names() == [name_of(step * BATCH) for step in (8, 9, 10)]
