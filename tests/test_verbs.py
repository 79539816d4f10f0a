"""The verbs that need no cluster, from their command lines to their files and exit codes."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_config import RESOLVED, TINY

from ray_diffusion import config, errors, evaluate, pack, sample
from ray_diffusion.__main__ import VERBS
from ray_diffusion.storage import Directory
from ray_diffusion.training.harness import in_directory
from ray_diffusion.training.loop import loop

ONE_STEP = {
    **TINY,
    **RESOLVED,
    "training.total_images": 128,
    "sampler.num_inference_steps": 3,
}


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


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["nowhere"], 2, "is no model"),
        ([], 2, "model"),
        (["{run}", "num_images=0"], 2, "num_images"),
        (["{run}", "class_label=10"], 2, "the model has 10 classes, got 10"),
        (["{run}", "solver=dddim"], 2, "did you mean 'ddim'?"),
        (["{run}", "num_inference_steps=2000"], 2, "num_inference_steps"),
        (["{run}", "out=/dev/null/grid.png"], 3, "cannot write /dev/null/grid.png"),
    ],
)
def test_what_sample_cannot_do_is_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, line: str
):
    assert errors.run(sample.main, [word.format(run=run) for word in words]) == code
    [found] = capsys.readouterr().err.splitlines()
    assert line in found


def test_evaluate_prints_each_figure_beside_its_floor(
    run: Path, capsys: pytest.CaptureFixture[str]
):
    assert errors.run(evaluate.main, [str(run), "num_images=130"]) == 0
    table = capsys.readouterr().out
    assert "sample/class_accuracy" in table
    assert "sample/fd" in table
    assert "accuracy by class: 0 " in table
    assert not (run / evaluate.FILE).exists()  # there was no launch, so there is no run to add to


def test_evaluate_with_too_few_images_is_one_line(run: Path, capsys: pytest.CaptureFixture[str]):
    assert errors.run(evaluate.main, [str(run), "num_images=10"]) == 2
    assert "at least 128" in capsys.readouterr().err


def test_pack_says_what_it_wrote_and_what_to_type_next(capsys: pytest.CaptureFixture[str]):
    assert errors.run(pack.main, ["out=digits-16", "image_size=16"]) == 0
    said = capsys.readouterr().out
    assert "train  1,438 images, 3 shards" in said
    assert "data.image_size=16" in said


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["out=x", "source=builtin:digitz"], "did you mean 'builtin:digits'?"),
        ([], "out"),
        (["out=x", "val_fraction=1"], "val_fraction"),
    ],
)
def test_what_pack_cannot_do_is_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], line: str
):
    assert errors.run(pack.main, words) == 2
    [found] = capsys.readouterr().err.splitlines()
    assert line in found
    assert not Path("x").exists()


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
