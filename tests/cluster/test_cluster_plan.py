"""What is checked and refused before a cluster is asked for anything."""

import json
from pathlib import Path

import pytest

from ray_diffusion import config as configs
from ray_diffusion.cluster.lineage import CONFIG, ORIGIN
from ray_diffusion.cluster.plan import prepare
from ray_diffusion.cluster.summary import Summary
from ray_diffusion.config import Config
from ray_diffusion.data.packing.embedded import digits
from ray_diffusion.data.packing.pack import pack
from ray_diffusion.data.packing.recipe import Recipe
from ray_diffusion.errors import ConfigError, DataError, StorageError, UsageError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def configured(tmp_path: Path, *overrides: str) -> Config:
    return configs.load([f"run.storage_url={tmp_path / 'runs'}", *overrides])


def test_a_plan_knows_what_follows_from_the_dataset(tmp_path: Path):
    plan = prepare(configured(tmp_path))
    assert plan.config.model.num_classes == 10
    assert plan.config.model.image_channels == 1
    assert (plan.train_images, plan.val_images) == (1438, 359)
    assert "500 steps of 128 = 64,000 images (45 epochs)" in plan.describe()
    assert not (tmp_path / "runs").exists()


def test_zero_classes_train_without_classes(tmp_path: Path):
    assert prepare(configured(tmp_path, "model.num_classes=0")).config.model.num_classes == 0


def test_another_number_of_classes_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="the dataset has 10"):
        prepare(configured(tmp_path, "model.num_classes=7"))


def test_a_schedule_that_ends_in_signal_is_complained_about(tmp_path: Path, capsys):
    prepare(configured(tmp_path))
    assert "signal" not in capsys.readouterr().err
    keys = ["diffusion.beta_schedule=linear", "diffusion.num_train_timesteps=250"]
    prepare(configured(tmp_path, *keys, "diffusion.scale_betas=false"))
    told = capsys.readouterr().err
    assert "diffusion.beta_schedule=linear: the noisiest timestep keeps 28% of the signal" in told
    assert "no timestep is near 36% of the noise levels that val/score looks at" in told


def test_a_directory_without_a_manifest_is_no_dataset(tmp_path: Path):
    with pytest.raises(DataError, match=r"no manifest\.json"):
        prepare(configured(tmp_path, f"data.dataset_url={tmp_path}"))


def test_a_storage_that_cannot_be_written_is_refused(tmp_path: Path):
    (tmp_path / "runs").write_text("a file where a directory should be")
    with pytest.raises(StorageError, match="cannot"):
        prepare(configured(tmp_path))


def test_a_changed_configuration_is_refused_with_the_keys_that_differ(tmp_path: Path):
    plan = prepare(configured(tmp_path))
    plan.run.write(CONFIG, configs.dump(plan.config))
    prepare(configured(tmp_path, "cluster.num_workers=2", "sampler.solver=ddpm"))
    with pytest.raises(UsageError) as caught:
        prepare(configured(tmp_path, "optim.lr=0.5", "run.seed=1"))
    assert "optim.lr: 0.001 -> 0.5" in str(caught.value)
    assert "run.seed: 0 -> 1" in str(caught.value)
    with pytest.raises(UsageError) as caught:
        prepare(configured(tmp_path, "optim.lr=0.5", "run.seed=1", "run.allow=[optim.lr]"))
    assert "optim.lr:" not in str(caught.value)
    assert "run.allow=[optim.lr,run.seed]" in str(caught.value)
    prepare(configured(tmp_path, "optim.lr=0.5", "run.allow=[optim.lr]"))


def test_a_relative_dataset_is_the_same_dataset_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pack(digits(None), Recipe(), str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    plan = prepare(configured(tmp_path, "data.dataset_url=data"))
    assert plan.config.data.dataset_url == str(tmp_path / "data")


def test_a_relative_storage_of_a_job_is_not_in_its_temporary_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    unpacked = tmp_path / "session/runtime_resources/working_dir_files/pkg"
    unpacked.mkdir(parents=True)
    monkeypatch.chdir(unpacked)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    plan = prepare(configs.load([]))
    assert plan.run.url == str(tmp_path / "home/ray_diffusion/runs/digits")


def test_a_finished_run_is_recognised_until_its_budget_grows(tmp_path: Path):
    plan = prepare(configured(tmp_path))
    Summary("finished", plan.run.url, images_seen=64_000).write(plan.run)
    finished = prepare(configured(tmp_path)).finished
    assert finished is not None
    assert finished.images_seen == 64_000
    Summary("preempted", plan.run.url, images_seen=64_000).write(plan.run)
    assert prepare(configured(tmp_path)).finished is None


def test_a_directory_made_again_is_another_run(tmp_path: Path):
    plan = prepare(configured(tmp_path))
    assert prepare(configured(tmp_path)).identity.run_key != plan.identity.run_key
    plan.run.write(ORIGIN, json.dumps({"run_key": plan.identity.run_key}))
    assert prepare(configured(tmp_path)).identity.run_key == plan.identity.run_key


def test_the_summary_reads_back_as_it_was_written(tmp_path: Path):
    plan = prepare(configured(tmp_path))
    written = Summary("finished", plan.run.url, 64_000, 625, {"val/loss": 0.2}, restarts=1)
    written.write(plan.run)
    assert Summary(**json.loads((plan.run.local_path() / "summary.json").read_text())) == written
    assert "1 restarts" in written.block()
