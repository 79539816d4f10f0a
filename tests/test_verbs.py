"""The verbs that need no cluster, from their command lines to their files and exit codes."""

import io
import json
import math
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_config import RESOLVED, TINY
from toy_source import toy_source

from ray_diffusion import config, errors, evaluate, sample
from ray_diffusion.__main__ import VERBS
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
from ray_diffusion.training.harness import in_directory
from ray_diffusion.training.loop import loop

ONE_STEP = {
    **TINY,
    **RESOLVED,
    "training.total_images": 128,
    "sampler.num_inference_steps": 3,
}
CHECKPOINT = "checkpoint-000000000128"
PARTS = ("prior", "steps", "decoder")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of one step."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        tiny = config.override(config.load([]), ONE_STEP)
        loop(tiny, in_directory(Directory(str(path)), keep=1), torch.device("cpu"))
    return path


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_sample_draws_one_picture(run: Path, capsys: pytest.CaptureFixture[str]):
    assert errors.run(sample.main, [str(run), "num_images=20"]) == 0
    with Image.open("grid.png") as grid:
        assert grid.size == (10 * 52, 2 * 52)
    assert "grid.png: 20 images" in capsys.readouterr().out


def test_sample_writes_an_array_with_its_labels(run: Path):
    assert errors.run(sample.main, [str(run), "num_images=12", "out=images.npz"]) == 0
    with np.load("images.npz") as arrays:
        assert arrays["images"].shape == (12, 8, 8, 1)
        assert arrays["images"].dtype == np.uint8
        assert arrays["labels"].tolist() == [*range(10), 0, 1]


def test_sample_writes_a_folder_of_one_class(run: Path):
    words = [str(run), "num_images=3", "class_label=7", "out=sevens", "guidance_scale=2"]
    assert errors.run(sample.main, words) == 0
    assert sorted(p.name for p in Path("sevens").iterdir()) == [f"{i:06d}-7.png" for i in range(3)]


def test_the_same_seed_draws_the_same_images_whatever_their_number(run: Path):
    errors.run(sample.main, [str(run), "num_images=3", "out=few.npz", "seed=5"])
    errors.run(sample.main, [str(run), "num_images=9", "out=many.npz", "seed=5"])
    with np.load("few.npz") as few, np.load("many.npz") as many:
        # Kernels may round differently in batches of different size: a grey level at the most.
        difference = few["images"].astype(int) - many["images"][:3].astype(int)
    assert np.abs(difference).max() <= 1


@pytest.fixture
def _pictures() -> None:
    """A digit, a mask that is white on top, and files that are neither."""
    three, mask = digit(3), np.zeros((8, 8), np.uint8)
    mask[:4] = 255
    Image.fromarray(three).save("three.png")
    Image.fromarray(three).convert("RGB").save("three-rgb.png")
    Image.fromarray(digit(0)).save("zero.png")
    Image.fromarray(mask).convert("1").save("mask.png")
    Image.fromarray(mask).convert("RGBA").save("mask-rgba.png")
    Image.fromarray(np.zeros((8, 9), np.uint8)).save("wide.png")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save("deep.png")
    Image.fromarray(np.zeros((8, 8, 4), np.uint8)).save("clear.png")
    Path("text.png").write_text("no picture")
    Path("cut.png").write_bytes(Path("three.png").read_bytes()[:60])


def digit(label: int) -> np.ndarray:
    """The first handwritten one."""
    source = digits(None)
    record = next(record for record in source.records if record.label == label)
    return np.asarray(Image.open(io.BytesIO(source.load(record))))


def sampled(run: Path, *words: str) -> dict[str, np.ndarray]:
    """What ``sample`` writes into an array."""
    assert errors.run(sample.main, [str(run), "num_images=4", "out=images.npz", *words]) == 0
    with np.load("images.npz") as arrays:
        return dict(arrays)


@pytest.mark.usefixtures("_pictures")
def test_variations_of_a_picture_are_close_to_it_if_they_are_to_be(run: Path):
    three = digit(3).astype(int)[..., None]
    near = sampled(run, "init_image=three.png", "num_inference_steps=50", "strength=0.02")
    far = sampled(run, "init_image=three.png", "num_inference_steps=50", "strength=1")
    assert near["labels"].tolist() == [10] * 4
    assert np.abs(near["images"] - three).mean() < 5 < np.abs(far["images"] - three).mean()
    assert len(np.unique(far["images"], axis=0)) == 4


@pytest.mark.usefixtures("_pictures")
def test_a_picture_is_read_in_the_channels_of_the_model(run: Path):
    grey, colour = (
        sampled(run, f"init_image={name}", "class_label=3")
        for name in ("three.png", "three-rgb.png")
    )
    assert (grey["images"] == colour["images"]).all()
    assert grey["labels"].tolist() == [3] * 4


@pytest.mark.usefixtures("_pictures")
@pytest.mark.parametrize("mask", ["mask.png", "mask-rgba.png"])
def test_a_mask_is_black_where_the_picture_is_kept_and_white_where_it_is_drawn(
    run: Path, mask: str
):
    found = sampled(run, "init_image=three.png", f"mask={mask}", "resamplings=2")["images"][..., 0]
    assert (found[:, 4:] == digit(3)[4:]).all()
    assert all((image[:4] != digit(3)[:4]).any() for image in found)


@pytest.mark.usefixtures("_pictures")
def test_a_noisy_picture_has_one_restoration_or_many(run: Path):
    words = ["init_image=three.png", "noise_sigma=0.5", "num_inference_steps=10"]
    one = sampled(run, *words)["images"].astype(int)
    assert np.ptp(one, axis=0).max() <= 1
    assert len(np.unique(sampled(run, *words, "solver=ddpm")["images"], axis=0)) == 4


@pytest.mark.usefixtures("_pictures")
def test_paths_lead_from_seed_to_seed_and_from_picture_to_picture(run: Path):
    path = sampled(run, "interpolate_to_seed=7", "class_label=2")["images"].astype(int)
    for end, seed in ((path[0], 0), (path[-1], 7)):
        first = sampled(run, f"seed={seed}", "class_label=2")["images"][0]
        assert np.abs(end - first).max() <= 1
    words = ["init_image=three.png", "num_inference_steps=50", "strength=0.02"]
    mixes = sampled(run, *words, "interpolate_to_image=zero.png")["images"].astype(int)
    assert np.abs(mixes[0, ..., 0] - digit(3)).mean() < 5
    assert np.abs(mixes[-1, ..., 0] - digit(0)).mean() < 5


def test_images_of_no_class_are_named_so(run: Path):
    words = [str(run), "num_images=2", "interpolate_to_seed=1", "out=path"]
    assert errors.run(sample.main, words) == 0
    assert sorted(p.name for p in Path("path").iterdir()) == ["000000-none.png", "000001-none.png"]


def test_the_sampler_of_a_run_may_be_changed(run: Path):
    plain = sampled(run)["images"]
    for words in (
        ["solver=ddim", "eta=1"],
        ["grid=trailing"],
        ["solver=ddpm", "variance=analytic"],
    ):
        assert (sampled(run, *words)["images"] != plain).any()


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["nowhere"], 2, "is no model"),
        ([], 2, "model"),
        (["{run}", "num_images=0"], 2, "num_images"),
        (["{run}", "class_label=10"], 2, "the model has 10 classes, got 10"),
        (["{run}", "solver=dddim"], 2, "did you mean 'ddim'?"),
        (["{run}", "num_inference_steps=20000"], 2, "num_inference_steps"),
        (["{run}", "out=/dev/null/grid.png"], 3, "cannot write /dev/null/grid.png"),
        (["{run}", "grid=karas"], 2, "did you mean 'karras'?"),
        (["{run}", "variance=analytic"], 2, "only sampler.solver=ddpm has a choice of variance"),
        (["{run}", "strength=0.5"], 2, "strength: says nothing without init_image=FILE.png"),
        (["{run}", "mask=mask.png"], 2, "mask: says nothing without init_image=FILE.png"),
        (["{run}", "noise_sigma=1"], 2, "noise_sigma: says nothing without init_image=FILE.png"),
        (
            ["{run}", "init_image=three.png", "resamplings=2"],
            2,
            "resamplings: says nothing without",
        ),
        (["{run}", "init_image=three.png", "strength=0"], 2, "strength: must be above 0, got 0"),
        (["{run}", "init_image=three.png", "noise_sigma=0"], 2, "noise_sigma: must be above 0"),
        (
            ["{run}", "init_image=three.png", "mask=mask.png", "strength=0.5"],
            2,
            "mask: does not go with strength; give one",
        ),
        (
            ["{run}", "init_image=three.png", "mask=mask.png", "noise_sigma=0.5"],
            2,
            "mask: does not go with noise_sigma; give one",
        ),
        (
            ["{run}", "init_image=three.png", "interpolate_to_seed=7"],
            2,
            "interpolate_to_seed: does not go with init_image; give one",
        ),
        (["{run}", "interpolate_to_seed=0"], 2, "interpolate_to_seed: must differ from seed"),
        (["{run}", "interpolate_to_seed=7", "num_images=1"], 2, "num_images: must be at least 2"),
        (["{run}", "init_image=nowhere.png"], 2, "init_image: there is no file nowhere.png"),
        (["{run}", "init_image=text.png"], 2, "init_image: text.png is no image that can be read"),
        (["{run}", "init_image=cut.png"], 2, "init_image: cut.png is no image that can be read"),
        (["{run}", "init_image=."], 2, "init_image: . is no image that can be read"),
        (
            ["{run}", "init_image=wide.png"],
            2,
            "init_image: wide.png has 9x8 pixels, must have the model's 8x8",
        ),
        (["{run}", "init_image=deep.png"], 2, "deep.png has more than 8 bits per channel"),
        (["{run}", "init_image=three.png", "mask=wide.png"], 2, "mask: wide.png has 9x8 pixels"),
        (["{run}", "init_image=three.png", "mask=clear.png"], 2, "mask: clear.png is transparent"),
    ],
)
@pytest.mark.usefixtures("_pictures")
def test_what_sample_cannot_do_is_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, line: str
):
    assert errors.run(sample.main, [word.format(run=run) for word in words]) == code
    [found] = capsys.readouterr().err.splitlines()
    assert line in found


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


def test_the_console_script_lists_the_verbs_and_runs_them():
    def script(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ray_diffusion", *words]
        return subprocess.run(command, capture_output=True, text=True)

    assert all(verb in script().stdout for verb in VERBS)
    assert script("trian").returncode == 2
    assert "usage: python -m ray_diffusion.pack" in script("pack", "--help").stdout


def test_errors_cross_processes_whole():
    problems = errors.ConfigError(["one", "two"])
    assert pickle.loads(pickle.dumps(problems)).problems == ["one", "two"]
    assert str(pickle.loads(pickle.dumps(errors.Diverged("loss")))) == "loss"


def test_an_error_is_one_line_its_notes_are_output_and_its_code_the_exit_code(
    capsys: pytest.CaptureFixture[str],
):
    def verb(argv: list[str]) -> None:
        error = errors.Preempted("stopped")
        error.add_note("summary")
        raise error

    assert errors.run(verb, []) == 75
    captured = capsys.readouterr()
    assert captured.err == "error: stopped\n"
    assert captured.out == "\nsummary\n"


def test_ctrl_c_is_exit_code_130():
    def verb(argv: list[str]) -> None:
        raise KeyboardInterrupt

    assert errors.run(verb, []) == 130


def test_a_bug_keeps_its_traceback():
    def verb(argv: list[str]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        errors.run(verb, [])
