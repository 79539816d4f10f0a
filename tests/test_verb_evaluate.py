"""Evaluation from its command line to its files and exit codes."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from toy_source import toy_source

from ray_diffusion import errors, evaluate
from ray_diffusion.cluster import record
from ray_diffusion.cluster.summary import Summary
from ray_diffusion.data.packing.embedded import digits
from ray_diffusion.data.packing.pack import pack
from ray_diffusion.data.packing.recipe import Recipe
from ray_diffusion.data.packing.source import Source
from ray_diffusion.diffusion import profile
from ray_diffusion.evaluation import classifier
from ray_diffusion.evaluation.compare import rank
from ray_diffusion.evaluation.measure import MEANINGS
from ray_diffusion.storage import Directory, seal

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
    (copy / "run.json").write_text(json.dumps({"run_key": "key-of-the-run"}))
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
