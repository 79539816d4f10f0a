"""Evaluation from its command line to its files and exit codes."""

import json
import math
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from toy_source import toy_source

from ray_diffusion import errors, evaluate
from ray_diffusion.cluster import record
from ray_diffusion.cluster.summary import Summary
from ray_diffusion.data.manifest import read_manifest
from ray_diffusion.data.packing.embedded import digits
from ray_diffusion.data.packing.pack import pack
from ray_diffusion.data.packing.recipe import Recipe
from ray_diffusion.data.packing.source import Source
from ray_diffusion.diffusion import profile
from ray_diffusion.evaluation import classifier
from ray_diffusion.evaluation.compare import rank
from ray_diffusion.evaluation.measure import MEANINGS
from ray_diffusion.models.codecs.block_dct import BlockDct
from ray_diffusion.storage import MANIFEST, Directory, seal

if TYPE_CHECKING:
    from latent_run import LatentRun

pytest_plugins = ["latent_run"]
pytestmark = pytest.mark.usefixtures("_in_a_directory_of_its_own")

CHECKPOINT = "checkpoint-000000000128"
PARTS = ("prior", "steps", "decoder")


@pytest.fixture
def _quick_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "MOST_EPOCHS", 1)


@pytest.fixture
def launched(run: Path, tmp_path: Path) -> Path:
    """A copy of the run with what a launch leaves beside the checkpoints."""
    copy = shutil.copytree(run, tmp_path / "runs" / "copy")
    (copy / "config.yaml").write_bytes((run / CHECKPOINT / "config.yaml").read_bytes())
    origin = {"run_key": "key-of-the-run", "mlflow_run_id": None, "git.commit": "abc"}
    (copy / "run.json").write_text(json.dumps(origin))
    Summary("finished", str(copy), images_seen=128, metrics={"train/loss": 1.0}).write(
        Directory(str(copy))
    )
    return copy


@pytest.mark.usefixtures("_quick_classifier")
def test_evaluate_prints_each_figure_beside_its_floor(
    run: Path, capsys: pytest.CaptureFixture[str]
):
    assert errors.run(evaluate.main, [str(run), "num_images=130"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in MEANINGS)
    assert "accuracy by class: 0 " in table
    # There was no launch, so there is no run to add to.
    assert not list(run.glob("evaluation.*"))


@pytest.mark.usefixtures("_quick_classifier")
def test_evaluate_writes_where_it_is_told_to_and_nowhere_else(launched: Path):
    before = {path: path.stat().st_mtime_ns for path in launched.rglob("*")}
    words = [str(launched), "num_images=130", "seeds=2", "seed=5", "out=found", "solver=ddpm"]
    assert errors.run(evaluate.main, words) == 0
    assert {path: path.stat().st_mtime_ns for path in launched.rglob("*")} == before
    assert sorted(path.name for path in Path("found").iterdir()) == [evaluate.PAGE, evaluate.FILE]
    found = json.loads(Path("found", evaluate.FILE).read_text())
    assert (found["seeds"], found["num_images"], found["weights"]) == ([5, 6], 130, "ema")
    assert found["sampler"]["solver"] == "ddpm"
    assert found["sampler"]["num_inference_steps"] == 3
    assert found["model"] == f"{launched}/{CHECKPOINT}"
    drawn = {name: f for name, f in found["figures"].items() if name.startswith("sample/")}
    assert set(drawn) == set(MEANINGS)
    assert all(figure["spread"] is not None for figure in drawn.values())
    parts = [found["figures"][f"likelihood/{part}_bpd"]["value"] for part in PARTS]
    assert found["figures"]["likelihood/vlb_bpd"]["value"] == pytest.approx(sum(parts))
    assert found["score_fingerprint"] == profile.fingerprint()
    assert len(found["dataset_fingerprint"]) == len(found["features_fingerprint"]) == 16
    assert rank([found, found], "sample/fd") == [found, found]
    assert "data:image/png;base64," in Path("found", evaluate.PAGE).read_text()


@pytest.mark.filterwarnings("ignore")  # MLflow's own, at import
@pytest.mark.usefixtures("_quick_classifier")
def test_evaluate_keeps_what_it_finds_with_the_run_wherever_that_is_now(
    launched: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(record, "MLFLOW_WAIT_S", 300.0)
    assert errors.run(evaluate.main, [str(launched), "num_images=130"]) == 0
    assert f"{launched}/{evaluate.PAGE} and {evaluate.FILE}\n" in capsys.readouterr().out
    found = json.loads((launched / evaluate.FILE).read_text())
    values = {
        name: figure["value"]
        for name, figure in found["figures"].items()
        if not name.startswith("val/")  # the run logged its own as it was trained
    }
    summary = json.loads((launched / "summary.json").read_text())
    assert summary["metrics"] == {"train/loss": 1.0} | values

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{launched.parent}/mlflow.db")
    [logged] = client.search_runs(["1"])
    assert logged.data.metrics == values
    assert logged.data.tags["ray_diffusion.run_key"] == "key-of-the-run"
    assert client.get_metric_history(logged.info.run_id, "sample/fd")[0].step == 128
    artifacts = {artifact.path for artifact in client.list_artifacts(logged.info.run_id)}
    assert artifacts == {evaluate.PAGE, evaluate.FILE}


@pytest.mark.filterwarnings("ignore")  # MLflow's own, at import
@pytest.mark.usefixtures("_quick_classifier")
def test_the_better_model_is_promoted_and_only_if_it_was_measured_in_the_same_way(
    launched: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(record, "MLFLOW_WAIT_S", 300.0)
    uri = f"sqlite:///{launched.parent}/mlflow.db"
    worse = shutil.copytree(launched, launched.parent / "worse")
    (worse / "run.json").write_text(json.dumps({"run_key": "other", "mlflow_run_id": None}))
    sharpen(launched / CHECKPOINT)

    def evaluated(*words: str) -> str:
        """The last line of a successful evaluation."""
        code = errors.run(evaluate.main, [*words, "num_images=130"])
        printed = capsys.readouterr()
        assert (code, printed.err) == (0, "")
        return printed.out.splitlines()[-1]

    def champion() -> str:
        return str(client.get_registered_model("digits").aliases["champion"])

    first = evaluated(str(launched), "promote=champion", "registered_model=digits")
    assert re.fullmatch(r"models:/digits@champion is version 1: sample/fd [\d.]+", first)

    from ray_diffusion.tracking.client import connect

    client = connect(uri)
    version = client.get_model_version("digits", "1")
    assert version.tags["ray_diffusion.image_shape"] == "1x8x8"
    assert version.tags["ray_diffusion.images_seen"] == "128"
    assert version.tags["ray_diffusion.run_key"] == "key-of-the-run"
    assert version.tags["sampler.solver"] == "dpmpp_2m"
    weights = load_file(launched / CHECKPOINT / "ema.safetensors").values()
    assert version.tags["ray_diffusion.parameters"] == str(sum(w.numel() for w in weights))
    state = json.loads((launched / CHECKPOINT / "state.json").read_text())
    assert float(version.tags["val/score"]) == pytest.approx(
        state["metrics"]["val/score"], rel=1e-5
    )

    # The champion again: the same version, by its alias, and as its run's.
    assert evaluated("models:/digits@champion", "promote=champion") == first
    assert evaluated(str(launched), "promote=champion", "registered_model=digits") == first

    promote = [str(worse), "promote=champion", "registered_model=digits"]
    assert re.fullmatch(
        r"models:/digits@champion stays version 1: sample/fd [\d.]+, version 2 has [\d.]+",
        evaluated(*promote),
    )
    assert champion() == "1"

    # Measured with another seed it says nothing, until the champion is measured with that as well.
    words = ["models:/digits/2", "promote=champion", "num_images=130", "seed=3"]
    assert errors.run(evaluate.main, words) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "sample/fd does not compare: models:/digits/1 was evaluated with seeds [0], " in line
    _, command = line.split("; to measure models:/digits/1 so: python -m ray_diffusion.evaluate ")
    assert evaluated(*shlex.split(command)).startswith("models:/digits@champion is version 1: ")

    client.set_registered_model_alias("digits", "champion", "2")  # by hand
    moved = evaluated("models:/digits/1", "promote=champion", "seed=3")
    assert re.fullmatch(r"models:/digits@champion is version 1: .+, version 2 had [\d.]+", moved)
    assert champion() == "1"


def sharpen(checkpoint: Path) -> None:
    """Make the averaged weights ten times as large: after one step they say next to nothing."""
    file = checkpoint / "ema.safetensors"
    save_file({name: 10 * weight for name, weight in load_file(file).items()}, file)
    seal(checkpoint)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["{run}", "promote=champion"], "promote: {run} is no trained run; give its directory, "),
        (["{launched}", "promote=champion"], "promote: the run has no tracking.registered_model; "),
        (["{launched}", "promote=latest"], "promote: must be letters, digits, dashes or "),
        (["{launched}", "promote=v1"], "promote: must be letters, digits, dashes or "),
        (["{launched}", "registered_model=a/b"], "registered_model: must be 1 to 100 letters, "),
        (["{launched}", "promote=champion", "weights=raw"], "weights: only averaged weights are "),
        (["models:/digits@champion", "promote=champion"], "has no models:/digits@champion"),
        (["mlflow:0123", "promote=champion"], "has no mlflow:0123"),
    ],
)
def test_what_cannot_be_promoted_is_refused_before_the_work(
    run: Path, launched: Path, capsys: pytest.CaptureFixture[str], words: list[str], line: str
):
    words = [word.format(run=run, launched=launched) for word in words]
    assert errors.run(evaluate.main, words) == 2
    printed = capsys.readouterr()
    [found] = printed.err.splitlines()
    assert line.format(run=run) in found
    assert printed.out == ""


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["nowhere"], 2, "is no model"),
        (["{run}", "num_images=127"], 2, "at least 128 drawn and validation images"),
        (["{run}", "features=inception"], 2, "features: no 'inception'"),
        (["{run}", "features=inception.pt"], 2, "features: there is no file inception.pt"),
        (["{run}", "weights=averaged"], 2, "weights"),
        (["{exported}", "weights=raw"], 2, "has no raw weights (model.safetensors)"),
        (["{run}", "dataset_url=nowhere"], 3, "nowhere is not a dataset: it has no manifest.json"),
        (["{run}", "dataset_url=size"], 3, "holds images of 16 pixels"),
        (
            ["{run}", "dataset_url=colour"],
            3,
            "colour has 3 channels, the model draws images with 1",
        ),
        (["{run}", "dataset_url=classes"], 3, "classes has 2 classes, the model draws images with"),
        (["{run}", "dataset_url=one"], 3, "has no examples in its 'val' split"),
        (["{run}", "dataset_url=few"], 2, "validation images are needed, got 500 and 23"),
    ],
)
def test_what_evaluate_cannot_do_is_one_line(
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    line: str,
):
    def source(classes: int, count: int, channels: tuple[int, ...] = ()) -> Source:
        ramp = np.arange(8 * 8 * math.prod(channels)).reshape(8, 8, *channels)
        images = [(ramp + i).astype(np.uint8) for i in range(count)]
        return toy_source("toy", map(str, range(classes)), images)

    sources = {
        "colour": (source(10, 100, (3,)), Recipe()),
        "classes": (source(2, 20), Recipe()),
        "one": (source(10, 10), Recipe(val_fraction=0)),
        "few": (source(10, 100), Recipe()),
        "size": (digits(None), Recipe(image_size=16)),
    }
    for word in words[1:]:
        name = word.removeprefix("dataset_url=")
        if name in sources:
            pack(*sources[name], name)
    exported = Path("exported")
    exported.mkdir()
    for name in ("config.yaml", "ema.safetensors"):
        shutil.copy(run / CHECKPOINT / name, exported)
    seal(exported)
    words = [word.format(run=run, exported=exported) for word in words]
    assert errors.run(evaluate.main, words) == code
    [found] = capsys.readouterr().err.splitlines()
    assert line in found


# Models that draw latents


QUICK = ("num_images=130", "features=random", "out=found")


@pytest.fixture(scope="module")
def evaluated(
    latent_run: "LatentRun", run: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What ``evaluate`` writes down of models of latents and of pixels."""
    measured = {
        "latents": [str(latent_run.run)],
        "latents against images": [str(latent_run.run), f"dataset_url={latent_run.images}"],
        "pixels against latents": [str(run), f"dataset_url={latent_run.latents}"],
    }
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("evaluated"))
        patch.setenv("XDG_CACHE_HOME", "cache")
        for name, words in measured.items():
            assert errors.run(evaluate.main, [*words, *QUICK]) == 0
            found[name] = json.loads(Path("found", evaluate.FILE).read_text())
    return found


def drawn_figures(evaluation: dict[str, Any]) -> dict[str, Any]:
    return {n: f for n, f in evaluation["figures"].items() if n.startswith("sample/")}


def test_a_model_of_latents_is_measured_in_pixels_and_by_its_error_on_latents(
    latent_run: "LatentRun", evaluated: dict[str, dict[str, Any]]
):
    found = evaluated["latents"]
    state = json.loads((latent_run.checkpoint / "state.json").read_text())
    for name in ("val/score", "val/vlb_bpd"):
        value = found["figures"][name]["value"]
        assert value == pytest.approx(state["metrics"][name], rel=1e-5)  # as in training
    # Nothing of the likelihood: latents have no 8 bits.
    assert set(found["figures"]) == {*MEANINGS, "val/score", "val/vlb_bpd"}
    assert found["image_size"] == 8
    assert found["codec_fingerprint"] == latent_run.config.data.codec
    assert found["dataset_fingerprint"] == read_manifest(str(latent_run.images)).fingerprint


def test_against_images_a_model_of_latents_has_no_score(
    latent_run: "LatentRun", evaluated: dict[str, dict[str, Any]]
):
    against = evaluated["latents against images"]
    assert against["figures"] == drawn_figures(evaluated["latents"])
    assert against["codec_fingerprint"] == latent_run.config.data.codec
    assert against["dataset_url"] == str(latent_run.images)


def test_models_of_pixels_and_of_latents_compare_by_drawn_images_alone(
    evaluated: dict[str, dict[str, Any]],
):
    of_pixels, of_latents = evaluated["pixels against latents"], evaluated["latents"]
    assert of_pixels["codec_fingerprint"] == "identity"
    assert "likelihood/vlb_bpd" in of_pixels["figures"]
    floors = [
        {name: figure["floor"] for name, figure in drawn_figures(one).items()}
        for one in (of_pixels, of_latents)
    ]
    assert floors[0] == floors[1]  # of the very images
    assert len(rank([of_pixels, of_latents], "sample/fd")) == 2
    with pytest.raises(errors.UsageError, match="val/score does not compare"):
        rank([of_pixels, of_latents], "val/score")


def complaint(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a command answers with, before it even counts the images."""
    assert errors.run(evaluate.main, [*words, "num_images=1"]) == 3
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_the_flow_of_a_model_of_latents_is_refused(
    latent_run: "LatentRun", capsys: pytest.CaptureFixture[str]
):
    assert errors.run(evaluate.main, [str(latent_run.run), "flow=true"]) == 2
    said = capsys.readouterr().err
    assert said == "error: flow: latents have no 8-bit levels to be probable; leave it out\n"


def test_latents_of_another_codec_are_one_line(
    latent_run: "LatentRun", encoded: Callable[..., Path], capsys: pytest.CaptureFixture[str]
):
    other = encoded(latent_run.images, BlockDct(1, 2, 3), Path("latents")).absolute()
    line = complaint(capsys, str(latent_run.run), f"dataset_url={other}")
    assert f"data.codec: {latent_run.config.data.codec}, but {other} was encoded by block" in line


def test_images_that_changed_or_went_since_are_one_line(
    latent_run: "LatentRun",
    encoded: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    images = shutil.copytree(latent_run.images, tmp_path / "images")
    latents = encoded(images, BlockDct(1, 2, 4), tmp_path / "latents")
    pack(digits(1000), Recipe(), str(images), overwrite=True)
    words = [str(latent_run.run), f"dataset_url={latents}"]
    assert f"{latents} was encoded from {images} with fingerprint" in complaint(capsys, *words)
    (images / MANIFEST).unlink()
    assert f"{images} is not a dataset: it has no manifest.json" in complaint(capsys, *words)
