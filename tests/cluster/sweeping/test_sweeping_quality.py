"""A trial that was trained for one step, measured without Ray and without MLflow."""

import json
import shutil
from pathlib import Path

import pytest

from ray_diffusion import config, errors, evaluate
from ray_diffusion.cluster import launch, lineage, summary
from ray_diffusion.cluster.plan import prepare
from ray_diffusion.cluster.sweeping import quality
from ray_diffusion.cluster.sweeping.quality import measure, measure_drawing
from ray_diffusion.evaluation import classifier
from ray_diffusion.evaluation.measure import MEANINGS
from ray_diffusion.storage import Directory
from ray_diffusion.tracking.curve import read_metrics

CHECKPOINT = "checkpoint-000000000128"
VALIDATED = {"val/score": 0.5, "val/vlb_bpd": 3.0, "val/loss": 0.25}


@pytest.fixture(scope="session")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _quick(classifiers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(classifiers))
    monkeypatch.setattr(classifier, "MOST_EPOCHS", 1)
    monkeypatch.setattr(quality, "MLFLOW_WAIT_S", 0.1)
    monkeypatch.setattr(launch, "MLFLOW_WAIT_S", 0.1)


@pytest.fixture
def trial(run: Path, tmp_path: Path) -> Directory:
    """The run as a trial that a launch has finished; its MLflow cannot be reached."""
    path = shutil.copytree(run, tmp_path / "sweep" / "trial-0000")
    trained = config.from_yaml((run / CHECKPOINT / "config.yaml").read_text(), "config.yaml")
    trained = config.override(trained, {"tracking.uri": "http://127.0.0.1:9"})
    (path / "config.yaml").write_text(config.dump(trained))
    (path / "run.json").write_text(json.dumps({"run_key": "key", "mlflow_run_id": "a" * 32}))
    home = Directory(str(path))
    metrics = {"train/loss": 1.0, **VALIDATED}
    summary.Summary("finished", str(path), images_seen=128, metrics=metrics).write(home)
    return home


def sample_figures(directory: Directory) -> dict[str, float]:
    """What the verb measures with seed 3."""
    words = [directory.url, "num_images=130", "seed=3", f"out={directory.url}/apart"]
    assert errors.run(evaluate.main, words) == 0
    figures = json.loads(directory.read(f"apart/{evaluate.FILE}") or "")["figures"]
    return {name: one["value"] for name, one in figures.items() if name.startswith("sample/")}


def test_a_trial_has_the_figures_that_evaluate_finds_and_those_of_its_validation(
    trial: Directory,
):
    found = measure(trial, 130, 3)
    assert set(found) == {*MEANINGS, *VALIDATED}
    assert found == sample_figures(trial) | VALIDATED


def test_the_figures_join_the_records_of_the_trial_and_wait_for_mlflow(trial: Directory):
    found = measure(trial, 130, 3)
    drawn = {name: value for name, value in found.items() if name in MEANINGS}
    facts = summary.read(trial)
    assert facts is not None
    assert facts["metrics"] == {"train/loss": 1.0} | VALIDATED | drawn
    trained, origin = lineage.recorded(trial)
    spool = lineage.spool_directory(trained, origin) / "evaluate.jsonl"
    assert read_metrics(spool) == {name: [(128, value)] for name, value in drawn.items()}
    assert lineage.leftovers(trained, origin) == {"evaluate": len(drawn)}


def test_a_trial_that_is_measured_again_has_each_figure_once(trial: Directory):
    assert measure(trial, 130, 3) == measure(trial, 130, 3)
    trained, origin = lineage.recorded(trial)
    assert lineage.leftovers(trained, origin) == {"evaluate": len(MEANINGS)}


def test_another_seed_draws_other_images(trial: Directory):
    assert measure(trial, 130, 3)["sample/fd"] != measure(trial, 130, 4)["sample/fd"]


def test_too_few_images_are_a_warning_and_leave_the_figures_of_the_validation(
    trial: Directory, capsys: pytest.CaptureFixture[str]
):
    assert measure(trial, 50, 3) == VALIDATED
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {trial.url} has no sample/ figures: ")
    assert line.endswith("at least 128 drawn and validation images are needed, got 50 and 359")
    assert "sample/fd" not in (trial.read(summary.FILE) or b"").decode()


def test_an_autoencoder_draws_nothing_and_has_the_figures_of_its_validation(
    trial: Directory, capsys: pytest.CaptureFixture[str]
):
    trained, _ = lineage.recorded(trial)
    trained = config.override(trained, {"model.kind": "autoencoder", "run.storage_url": "else"})
    trial.write("config.yaml", config.dump(trained))
    found = {"val/score": 0.01, "val/psnr": 26.0, "val/ssim": 0.9}
    metrics = {"train/loss": 1.0, "val/kl": 2.0, "latent/mean_0": 0.0, **found}
    summary.Summary("finished", trial.url, images_seen=128, metrics=metrics).write(trial)
    assert measure(trial, 130, 3) == found
    assert capsys.readouterr().err == ""
    facts = summary.read(trial)
    assert facts is not None
    assert facts["metrics"] == metrics


def test_a_drawing_from_another_runs_model_has_records_that_wait_for_mlflow(trial: Directory):
    trained, _ = lineage.recorded(trial)
    home = trial.url.rpartition("/")[0]
    own = {"run.name": "drawn", "run.storage_url": home, "sampler.num_inference_steps": 2}
    plan = prepare(config.override(trained, own))
    found = measure_drawing(plan, trial, 130, 3)
    assert set(found) == set(MEANINGS)
    facts = summary.read(plan.run)
    assert facts is not None
    assert (facts["status"], facts["metrics"], facts["shipped"]) == ("finished", found, False)
    assert lineage.leftovers(plan.config, plan.identity)["driver"] == len(found)
