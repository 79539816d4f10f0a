from pathlib import Path

import pytest
import torch
from toy import BATCH, CPU, World

from ray_diffusion import config
from ray_diffusion.config import Config
from ray_diffusion.data.training_set import open_training_set
from ray_diffusion.storage import Directory
from ray_diffusion.training import checkpoint
from ray_diffusion.training.state import TrainState, initial_state


@pytest.fixture
def run_directory(tmp_path: Path) -> Directory:
    return Directory(str(tmp_path / "run"))


def published(run: Directory, scratch: Path, *images_seen: int) -> None:
    for seen in images_seen:
        content = scratch / str(seen)
        content.mkdir()
        (content / "file").write_text(str(seen))
        run.publish(content, checkpoint.name_of(seen))


def restored(world: World, run: Config, into: Path) -> TrainState:
    into.mkdir()
    assert world.harness().restore(into)
    state = initial_state(config.override(run, {"run.seed": 99}), CPU)
    checkpoint.load(into, state, open_training_set(run.data), CPU)
    return state


def test_names_sort_by_age():
    names = [checkpoint.name_of(seen) for seen in (0, 9, 10, 999, 1000, 10**11)]
    assert sorted(names) == names
    assert all(checkpoint.NAME.fullmatch(name) for name in names)


def test_only_checkpoints_are_found_in_a_run(run_directory: Directory, tmp_path: Path):
    published(run_directory, tmp_path, 200, 100)
    run_directory.write("config.yaml", "")
    run_directory.write("checkpoint-12", "")
    assert checkpoint.names(run_directory) == [checkpoint.name_of(seen) for seen in (100, 200)]


def test_a_run_without_checkpoints_has_none(run_directory: Directory, tmp_path: Path):
    assert checkpoint.names(run_directory) == []
    (tmp_path / "into").mkdir()
    assert checkpoint.fetch_newest(run_directory, tmp_path / "into", pytest.fail) is None


@pytest.mark.parametrize(("keep", "left"), [(1, [300]), (2, [200, 300]), (9, [100, 200, 300])])
def test_thinning_out_keeps_the_newest(
    run_directory: Directory, tmp_path: Path, keep: int, left: list[int]
):
    published(run_directory, tmp_path, 100, 200, 300)
    checkpoint.thin_out(run_directory, checkpoint.name_of(300), keep)
    assert checkpoint.names(run_directory) == [checkpoint.name_of(seen) for seen in left]


def test_thinning_out_deletes_what_lies_beyond_the_newest(run_directory: Directory, tmp_path: Path):
    published(run_directory, tmp_path, 100, 200, 300)
    checkpoint.thin_out(run_directory, checkpoint.name_of(200), 1)
    assert checkpoint.names(run_directory) == [checkpoint.name_of(200)]


@pytest.mark.parametrize("url", ["{tmp_path}/run", "memory://checkpoints/{tmp_path}"])
def test_a_checkpoint_comes_back_whole_from_any_storage(url: str, tmp_path: Path):
    directory, into = Directory(url.format(tmp_path=tmp_path)), tmp_path / "into"
    into.mkdir()
    published(directory, tmp_path, 100, 200)
    (into / "leftover").write_text("")
    assert checkpoint.fetch_newest(directory, into, pytest.fail) == checkpoint.name_of(200)
    assert sorted(path.name for path in into.iterdir()) == ["file", "manifest.json"]
    assert (into / "file").read_text() == "200"


def test_a_restored_state_is_the_saved_one(undisturbed: World, run: Config, tmp_path: Path):
    state = restored(undisturbed, run, tmp_path / "saved")
    assert (state.images_seen, state.steps) == (10 * BATCH, 10)
    (tmp_path / "again").mkdir()
    checkpoint.write(tmp_path / "again", state, run, open_training_set(run.data))
    for file in ("model.safetensors", "ema.safetensors", "state.json", "config.yaml"):
        saved, again = (tmp_path / name / file for name in ("saved", "again"))
        assert saved.read_bytes() == again.read_bytes(), file
    saved, again = (
        torch.load(tmp_path / name / "trainer.pt", weights_only=True) for name in ("saved", "again")
    )
    assert saved["param_groups"] == again["param_groups"]
    for index, moments in saved["state"].items():
        assert all(moments[key].equal(again["state"][index][key]) for key in moments)


def test_a_restored_state_keeps_its_memory_format(undisturbed: World, run: Config, tmp_path: Path):
    state = restored(undisturbed, run, tmp_path / "saved")
    for parameter, moments in state.optimizer.state.items():
        if parameter.ndim == 4:
            for value in (parameter, moments["exp_avg"], moments["exp_avg_sq"]):
                assert value.is_contiguous(memory_format=torch.channels_last)


def test_the_optimizer_loads_without_trusting_its_file(undisturbed: World, tmp_path: Path):
    assert undisturbed.harness().restore(tmp_path)
    trainer = torch.load(tmp_path / "trainer.pt", weights_only=True)
    assert set(trainer) == {"state", "param_groups"}


def test_the_config_of_a_checkpoint_is_that_of_its_run(
    undisturbed: World, run: Config, tmp_path: Path
):
    assert undisturbed.harness().restore(tmp_path)
    text = (tmp_path / "config.yaml").read_text()
    assert config.from_yaml(text, "config.yaml") == run
