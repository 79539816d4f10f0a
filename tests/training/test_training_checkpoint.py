from pathlib import Path

import pytest
import torch
from toy import BATCH, CPU, World

from ray_diffusion import config
from ray_diffusion.config import Config
from ray_diffusion.data.training_set import TrainingSet, open_training_set
from ray_diffusion.errors import UsageError
from ray_diffusion.models import ema
from ray_diffusion.storage import Directory
from ray_diffusion.training import checkpoint
from ray_diffusion.training.state import TrainState, initial_state

FILES = [
    "config.yaml",
    "ema.safetensors",
    "model.safetensors",
    "optimizer.safetensors",
    "state.json",
]


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
    checkpoint.load(into, state, train_of(run))
    return state


def train_of(run: Config) -> TrainingSet:
    return open_training_set(run.data)


def step(state: TrainState) -> None:
    """A step with gradients made up."""
    draws = torch.Generator().manual_seed(state.steps)
    for parameter in state.network.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter).normal_(generator=draws)
    state.optimizer.step()
    ema.update(state.average, state.network, 0.9)
    state.steps, state.images_seen = state.steps + 1, state.images_seen + BATCH


def written(directory: Path, snapshot: checkpoint.Snapshot) -> Path:
    directory.mkdir()
    checkpoint.write(directory, snapshot)
    return directory


def test_names_sort_by_age():
    names = [checkpoint.name_of(seen) for seen in (0, 9, 10, 999, 1000, 10**11)]
    assert sorted(names) == names
    assert all(checkpoint.NAME.fullmatch(name) for name in names)
    assert [checkpoint.images_seen_of(name) for name in names] == [0, 9, 10, 999, 1000, 10**11]


def test_only_checkpoints_are_found_in_a_run(run_directory: Directory, tmp_path: Path):
    published(run_directory, tmp_path, 200, 100)
    run_directory.write("config.yaml", "")
    run_directory.write("checkpoint-12", "")
    assert checkpoint.names(run_directory) == [checkpoint.name_of(seen) for seen in (100, 200)]


def test_a_run_without_checkpoints_has_none(run_directory: Directory, tmp_path: Path):
    assert checkpoint.names(run_directory) == []
    (tmp_path / "into").mkdir()
    assert checkpoint.fetch_newest(run_directory, tmp_path / "into", pytest.fail) is None


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
    copy = checkpoint.snapshot(state, run, train_of(run), state.metrics["val/score"])
    checkpoint.write(tmp_path / "again", copy)
    for file in FILES:
        saved, again = (tmp_path / name / file for name in ("saved", "again"))
        assert saved.read_bytes() == again.read_bytes(), file


def test_training_does_not_reach_a_snapshot(run: Config, tmp_path: Path):
    state, train = initial_state(run, CPU), train_of(run)
    step(state)
    state.metrics, state.profile = {"train/loss": 1.0}, [1.0]
    copies = [checkpoint.snapshot(state, run, train) for _ in range(2)]
    written(tmp_path / "before", copies[0])
    step(state)
    state.metrics["train/loss"] = state.profile[0] = 2.0
    for name, value in state.average.state_dict().items():
        assert not copies[0].average[name].equal(value)
        assert not copies[0].average[name].equal(copies[0].weights[name])
    before, after = tmp_path / "before", written(tmp_path / "after", copies[1])
    later = written(tmp_path / "later", checkpoint.snapshot(state, run, train))
    for file in FILES:
        assert (before / file).read_bytes() == (after / file).read_bytes(), file
        changed = (before / file).read_bytes() != (later / file).read_bytes()
        assert changed == (file != "config.yaml")


def test_the_bytes_of_a_checkpoint_do_not_depend_on_the_memory_format(run: Config, tmp_path: Path):
    state = initial_state(run, CPU)
    step(state)
    last = written(tmp_path / "last", checkpoint.snapshot(state, run, train_of(run)))
    for parameter in state.network.parameters():
        parameter.data = parameter.data.contiguous()
    for moments in state.optimizer.state.values():
        moments |= {key: value.contiguous() for key, value in moments.items()}
    first = written(tmp_path / "first", checkpoint.snapshot(state, run, train_of(run)))
    for file in FILES:
        assert last.joinpath(file).read_bytes() == first.joinpath(file).read_bytes(), file


def test_a_restored_state_keeps_its_memory_format(undisturbed: World, run: Config, tmp_path: Path):
    state = restored(undisturbed, run, tmp_path / "saved")
    for parameter, moments in state.optimizer.state.items():
        for value in (moments["exp_avg"], moments["exp_avg_sq"]):
            assert value.stride() == parameter.stride()
        if parameter.ndim == 4:
            assert parameter.is_contiguous(memory_format=torch.channels_last)


def test_moments_go_by_the_names_of_the_parameters(run: Config, tmp_path: Path):
    state = initial_state(run, CPU)
    step(state)
    copy = checkpoint.snapshot(state, run, train_of(run))
    assert set(copy.moments) == {
        f"{moment}.{name}"
        for name, _ in state.network.named_parameters()
        for moment in ("step", "exp_avg", "exp_avg_sq")
    }
    for name, parameter in state.network.named_parameters():
        for moment, value in state.optimizer.state[parameter].items():
            assert value.equal(copy.moments[f"{moment}.{name}"])


def test_a_parameter_that_never_moved_goes_on_as_if_it_had_no_moments(run: Config, tmp_path: Path):
    ends = []
    for restore in (False, True):
        state = initial_state(run, CPU)
        late = next(state.network.parameters()).requires_grad_(False)
        step(state)
        if restore:
            copy = checkpoint.snapshot(state, run, train_of(run))
            checkpoint.load(written(tmp_path / "saved", copy), state, train_of(run))
        late.requires_grad_(True)
        step(state)
        ends.append([value.clone() for value in state.network.parameters()])
    assert all(one.equal(other) for one, other in zip(*ends, strict=True))


def test_a_checkpoint_of_an_earlier_version_is_refused(
    undisturbed: World, run: Config, tmp_path: Path
):
    assert undisturbed.harness().restore(tmp_path)
    (tmp_path / "optimizer.safetensors").rename(tmp_path / "trainer.pt")
    with pytest.raises(UsageError, match=r"by an earlier version, .* choose another run\.name"):
        checkpoint.load(tmp_path, initial_state(run, CPU), train_of(run))


def test_a_checkpoint_has_a_score_where_a_validation_preceded_it(undisturbed: World, run: Config):
    facts = {seen: checkpoint.facts_of(undisturbed.run, checkpoint.name_of(seen * BATCH))
             for seen in (8, 9, 10)}  # fmt: skip
    assert facts[8] is None
    assert facts[9]["score"] is None
    assert facts[10]["score"] == undisturbed.points[10 * BATCH, "val/score"]


def test_the_newest_facts_are_those_of_a_whole_checkpoint(tmp_path: Path):
    directory = Directory(str(tmp_path))
    assert checkpoint.newest_facts(directory) is None
    for seen, files in enumerate(
        [
            {"state.json": "{}", "manifest.json": ""},
            {"state.json": '{"steps": 1}', "manifest.json": ""},
            {"state.json": '{"steps": ', "manifest.json": ""},
            {"state.json": "{}"},
            {"manifest.json": ""},
        ]
    ):
        for file, content in files.items():
            directory.write(f"{checkpoint.name_of(seen)}/{file}", content)
    assert checkpoint.newest_facts(directory) == (checkpoint.name_of(1), {"steps": 1})


def test_the_config_of_a_checkpoint_is_that_of_its_run(
    undisturbed: World, run: Config, tmp_path: Path
):
    assert undisturbed.harness().restore(tmp_path)
    text = (tmp_path / "config.yaml").read_text()
    assert config.from_yaml(text, "config.yaml") == run
