import json
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
from ray_diffusion.models.codecs.space import Pixels
from ray_diffusion.models.pixels import decode, encode
from ray_diffusion.storage import Directory, seal
from ray_diffusion.training import harness
from ray_diffusion.training.loop import loop
from ray_diffusion.training.retention import Keep

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
        loop(config, harness.in_directory(Directory(str(run)), Keep(2)), torch.device("cpu"))
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


@pytest.fixture(scope="module")
def drawer(trained: Path) -> pipeline.Pipeline:
    """The tiny run's pipeline."""
    return pipeline.load(str(trained))


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


def test_a_model_draws_nearly_the_same_in_bf16(trained: Path):
    exact, rounded = (
        pipeline.load(str(trained), sampler={"precision": precision})
        for precision in ("fp32", "bf16")
    )
    labels = exact.labels(10)
    error = (rounded.draw(labels, seed=0).float() - exact.draw(labels, seed=0).float()).abs()
    assert 0 < error.mean() < 1  # a grey level
    weights = rounded.network.state_dict().values()  # those that likelihoods are computed with
    assert {value.dtype for value in weights} == {torch.float32}


@pytest.mark.parametrize(
    "sampler", [{"solver": "dddim"}, {"num_inference_steps": 0}, {"num_inference_steps": 10_001}]
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


def test_images_of_no_class_have_the_label_that_means_none(drawer: pipeline.Pipeline):
    assert drawer.no_labels(3).tolist() == [10, 10, 10]


def test_a_model_that_was_always_told_the_class_does_not_draw_without(trained: Path):
    config = configs.override(configs.load([]), TINY | {"model.class_dropout_prob": 0})
    told = pipeline.Pipeline(config, torch.nn.Identity(), Pixels(), "here")
    with pytest.raises(UsageError, match="class_label: the model was told the class of every"):
        told.no_labels(1)


def images(count: int) -> torch.Tensor:
    """As many different images, shape ``(N, 1, 8, 8)``."""
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


TOP = (torch.arange(8) < 4).view(8, 1).expand(8, 8)  # a mask that keeps the upper half
EDITS = {
    "sdedit": lambda drawer, labels, x0: drawer.sdedit(labels, 5, x0, 0.6),
    "inpaint": lambda drawer, labels, x0: drawer.inpaint(
        labels, 5, x0, TOP.expand(len(x0), 1, 8, 8), 2
    ),
    "restore": lambda drawer, labels, x0: drawer.restore(labels, 5, x0, 0.5),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_hangs_on_its_image_seed_and_index_not_on_its_batch(
    drawer: pipeline.Pipeline, edit: str
):
    count = pipeline.BATCH + 3
    labels, x0 = drawer.labels(count), images(count)
    found = EDITS[edit](drawer, labels, x0)
    assert (found.shape, found.dtype) == (x0.shape, torch.uint8)
    few = EDITS[edit](drawer, labels[:3], x0[:3])
    torch.testing.assert_close(few.int(), found[:3].int(), rtol=0, atol=1)
    last = EDITS[edit](drawer, labels[-3:], x0[-3:])  # other indices, so other noise
    assert last.equal(found[-3:]) == (edit == "restore")


def test_inpainted_images_are_the_given_ones_where_they_are_kept(drawer: pipeline.Pipeline):
    x0 = images(4)
    found = EDITS["inpaint"](drawer, drawer.labels(4), x0)
    assert found[:, :, :4].equal(decode(x0)[:, :, :4])
    assert not found[:, :, 4:].equal(decode(x0)[:, :, 4:])


def test_drawn_images_go_back_in_as_they_came_out(drawer: pipeline.Pipeline):
    labels = drawer.labels(4)
    first = drawer.draw(labels, seed=0)
    keep = torch.ones(4, 1, 8, 8).bool()
    assert drawer.inpaint(labels, 5, encode(first), keep, 1).equal(first)


def test_with_one_noise_equal_images_have_equal_variations(drawer: pipeline.Pipeline):
    labels, x0 = drawer.labels(3, class_label=1), images(1).expand(3, -1, -1, -1)
    alike, unlike = (
        drawer.sdedit(labels, 0, x0, 0.6, one_noise=noise).int() for noise in (True, False)
    )
    torch.testing.assert_close(alike, alike[:1].expand(3, -1, -1, -1))
    assert len(unlike.flatten(1).unique(dim=0)) == 3


def test_a_path_leads_from_the_first_image_of_a_seed_to_that_of_another(
    drawer: pipeline.Pipeline,
):
    labels = drawer.labels(5, class_label=3)
    path = drawer.interpolate(labels, 0, 7).int()
    ends = [drawer.draw(labels[:1], seed)[0].int() for seed in (0, 7)]
    for found, end in zip((path[0], path[-1]), ends, strict=True):
        torch.testing.assert_close(found, end, rtol=0, atol=1)
    assert len(path.flatten(1).unique(dim=0)) == 5


def test_the_profile_comes_with_a_checkpoint_and_may_come_with_an_exported_model(
    trained: Path, exported: Path, drawer: pipeline.Pipeline
):
    known = json.loads((trained / LAST / "state.json").read_text())["profile"]
    assert drawer.profile is not None
    assert drawer.profile.tolist() == known
    assert len(known) == 19
    assert pipeline.load(str(exported)).profile is None
    for written, read in ((known, known), ([], None)):  # empty: never validated
        (exported / "profile.json").write_text(json.dumps(written))
        seal(exported)
        again = pipeline.load(str(exported)).profile
        assert (None if again is None else again.tolist()) == read


def test_the_analytic_variance_needs_the_profile(trained: Path, exported: Path):
    analytic = {"solver": "ddpm", "variance": "analytic"}
    known, unknown = (pipeline.load(str(p), sampler=analytic) for p in (trained, exported))
    fixed = pipeline.load(str(trained), sampler={"solver": "ddpm"})
    labels = known.labels(4)
    assert not known.draw(labels, 0).equal(fixed.draw(labels, 0))
    with pytest.raises(UsageError, match="the model has seen none"):
        unknown.draw(labels, 0)


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
