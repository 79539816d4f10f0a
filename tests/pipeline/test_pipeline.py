import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_config import RESOLVED
from tiny_config import TINY as TINY_NETWORK

from ray_diffusion import config as configs
from ray_diffusion import pipeline
from ray_diffusion.errors import ConfigError, StorageError, UsageError
from ray_diffusion.storage import Directory, seal
from ray_diffusion.training import harness
from ray_diffusion.training.loop import loop

LAST, FIRST = "checkpoint-000000000256", "checkpoint-000000000128"
TINY = {
    "training.total_images": 256,
    "training.checkpoint_every_images": 128,
    **TINY_NETWORK,
    **RESOLVED,
    "sampler.num_inference_steps": 3,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of a tiny finished run with two checkpoints; not to be changed."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        config = configs.override(configs.load([]), TINY)
        loop(config, harness.in_directory(Directory(str(run)), keep=2), torch.device("cpu"))
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may damage."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def exported(trained: Path, tmp_path: Path) -> Path:
    """An exported model: configuration, averaged weights, seal."""
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.yaml", "ema.safetensors"):
        shutil.copy(trained / LAST / name, model)
    seal(model)
    return model


def drawn(model: Path | str, weights: str = "ema") -> torch.Tensor:
    drawer = pipeline.load(str(model), weights)
    return drawer.draw(drawer.labels(4), seed=0)


def test_run_checkpoint_and_exported_model_draw_the_same(trained: Path, exported: Path):
    images = drawn(trained)
    assert (images.shape, images.dtype) == ((4, 1, 8, 8), torch.uint8)
    assert torch.equal(drawn(trained / LAST), images)
    assert torch.equal(drawn(exported), images)


def test_a_run_in_any_storage_is_loaded(trained: Path, tmp_path: Path):
    remote = Directory(f"memory://pipeline-tests/{tmp_path.name}")
    for file in (trained / LAST).iterdir():
        remote.put(file, f"{LAST}/{file.name}")
    drawer = pipeline.load(remote.url)
    assert drawer.source == f"{remote.url}/{LAST}"
    assert torch.equal(drawn(remote.url), drawn(trained))
    remote.remove("")


def test_the_newest_checkpoint_is_taken_and_named(trained: Path):
    assert pipeline.load(str(trained)).source == f"{trained}/{LAST}"
    assert pipeline.load(str(trained / FIRST)).source == f"{trained}/{FIRST}"


@pytest.mark.parametrize("weights", pipeline.WEIGHTS)
def test_the_weights_asked_for_are_loaded(trained: Path, weights: str):
    found = pipeline.load(str(trained), weights).network
    stored = load_file(trained / LAST / pipeline.WEIGHTS[weights])
    torch.testing.assert_close(dict(found.state_dict()), stored, rtol=0, atol=0)
    assert not found.training
    assert not any(p.requires_grad for p in found.parameters())


def test_averaged_and_raw_weights_draw_differently(trained: Path):
    assert not torch.equal(drawn(trained, "raw"), drawn(trained, "ema"))


def test_an_image_hangs_on_seed_and_index_not_on_its_batch(trained: Path):
    drawer = pipeline.load(str(trained))
    many = drawer.labels(pipeline.BATCH + 10)
    all_at_once = drawer.draw(many, seed=5).int()
    for count in (1, 3, 50):
        few = drawer.draw(many[:count], seed=5).int()
        # A convolution adds up in another order in another batch: one level at most.
        torch.testing.assert_close(few, all_at_once[:count], rtol=0, atol=1)
    assert len(all_at_once.flatten(1).unique(dim=0)) == len(many)
    assert not torch.equal(drawer.draw(many[:3], seed=6).int(), all_at_once[:3])


def test_the_sampler_may_be_changed_and_none_leaves_it(trained: Path):
    kept = pipeline.load(str(trained), sampler={"num_inference_steps": None, "solver": None})
    assert kept.config.sampler == pipeline.load(str(trained)).config.sampler
    changed = pipeline.load(str(trained), sampler={"num_inference_steps": 5, "solver": "ddpm"})
    assert (changed.config.sampler.num_inference_steps, changed.config.sampler.solver) == (
        5,
        "ddpm",
    )


@pytest.mark.parametrize(
    "sampler", [{"solver": "dddim"}, {"num_inference_steps": 0}, {"num_inference_steps": 1001}]
)
def test_a_sampler_that_cannot_be_is_a_config_error(trained: Path, sampler: dict[str, object]):
    with pytest.raises(ConfigError) as error:
        pipeline.load(str(trained), sampler=sampler)
    (problem,) = error.value.problems
    assert problem.startswith(f"sampler.{next(iter(sampler))}: ")


def test_labels_are_the_classes_in_turn_or_one_class(trained: Path):
    drawer = pipeline.load(str(trained))
    assert drawer.labels(12).tolist() == [*range(10), 0, 1]
    assert drawer.labels(3, class_label=9).tolist() == [9, 9, 9]


@pytest.mark.parametrize("label", [-1, 10])
def test_a_class_the_model_does_not_know_is_refused(trained: Path, label: int):
    with pytest.raises(UsageError) as error:
        pipeline.load(str(trained)).labels(3, class_label=label)
    assert str(error.value) == f"class_label: the model has 10 classes, got {label}"


def problem(model: Path | str, weights: str = "ema") -> str:
    with pytest.raises((UsageError, StorageError)) as error:
        pipeline.load(str(model), weights)
    assert "\n" not in str(error.value)
    return f"{type(error.value).__name__}: {error.value}"


def test_an_exported_model_has_no_raw_weights(exported: Path):
    assert problem(exported, "raw") == (
        f"UsageError: {exported} has no raw weights (model.safetensors)"
    )


def test_a_place_that_is_no_model_is_refused(tmp_path: Path, trained: Path):
    (tmp_path / "empty").mkdir()
    file = trained / LAST / "ema.safetensors"
    for place in (tmp_path / "empty", tmp_path / "nowhere", file, "memory://nothing/here"):
        assert problem(place) == (
            f"UsageError: {place} is no model: it is neither a run with a checkpoint, "
            "nor a checkpoint, nor an exported model"
        )


def test_weights_without_a_configuration_are_no_model(exported: Path):
    (exported / "config.yaml").unlink()
    seal(exported)
    assert problem(exported).startswith(f"UsageError: {exported} is no model: ")


def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_taken(
    run: Path, capsys: pytest.CaptureFixture[str]
):
    (run / LAST / "ema.safetensors").write_bytes(b"damaged")
    assert pipeline.load(str(run)).source == f"{run}/{FIRST}"
    assert capsys.readouterr().err == (
        f"warning: {run}/{LAST} has a damaged ema.safetensors; it is passed over\n"
    )


def test_an_unfinished_checkpoint_is_passed_over_in_silence(
    run: Path, capsys: pytest.CaptureFixture[str]
):
    (run / LAST / "manifest.json").unlink()
    assert pipeline.load(str(run)).source == f"{run}/{FIRST}"
    assert capsys.readouterr().err == ""


def test_a_run_without_a_whole_checkpoint_is_an_error(run: Path):
    for name in (FIRST, LAST):
        (run / name / "config.yaml").write_text("damaged")
    assert problem(run) == f"StorageError: {run} has no whole checkpoint"


@pytest.mark.parametrize("name", [LAST, FIRST])
def test_a_damaged_checkpoint_that_was_asked_for_is_an_error(run: Path, name: str):
    (run / name / "ema.safetensors").write_bytes(b"damaged")
    assert problem(run / name) == f"StorageError: {run}/{name} has a damaged ema.safetensors"


def test_an_unsealed_model_is_an_error(exported: Path):
    (exported / "manifest.json").unlink()
    assert problem(exported) == f"StorageError: {exported} has no manifest.json"
