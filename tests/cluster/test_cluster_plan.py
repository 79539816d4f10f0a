"""What is checked and refused before a cluster is asked for anything."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_diffusion import config as configs
from ray_diffusion.cluster.latents import keep_codec
from ray_diffusion.cluster.lineage import CONFIG, ORIGIN
from ray_diffusion.cluster.plan import prepare
from ray_diffusion.cluster.summary import Summary
from ray_diffusion.config import Config
from ray_diffusion.data.manifest import read_manifest
from ray_diffusion.data.packing.embedded import digits
from ray_diffusion.data.packing.pack import pack
from ray_diffusion.data.packing.recipe import Recipe
from ray_diffusion.errors import ConfigError, DataError, StorageError, UsageError
from ray_diffusion.models.codecs import space as spaces
from ray_diffusion.models.codecs import stored
from ray_diffusion.models.codecs.autoencoder import Autoencoder
from ray_diffusion.models.codecs.block_dct import BlockDct
from ray_diffusion.pipeline import CODEC
from ray_diffusion.storage import MANIFEST, seal
from ray_diffusion.training.latents import fetch_codec

pytest_plugins = ["latent_run"]


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


# Latents


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("images")
    pack(digits(200), Recipe(), str(directory))
    return directory


@pytest.fixture
def latents(images: Path, tmp_path: Path, encoded: Callable[..., Path]) -> Path:
    """Latents of 3 x 4 x 4, which a test may damage."""
    return encoded(images, BlockDct(1, 2, 3), tmp_path / "latents")


def of_latents(tmp_path: Path, *overrides: str) -> Config:
    return configured(tmp_path, f"data.dataset_url={tmp_path / 'latents'}", *overrides)


def line_of(error: pytest.ExceptionInfo[Exception]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_plan_knows_what_follows_from_latents(latents: Path, tmp_path: Path):
    plan = prepare(of_latents(tmp_path))
    data, said = plan.config.data, read_manifest(str(latents)).latents
    assert said is not None
    assert (data.codec, data.latent_size, data.image_size) == (said.codec, 4, 8)
    assert (plan.config.model.image_channels, plan.config.model.num_classes) == (3, 10)
    assert f"\ncodec      {said.codec}: latents of 3 x 4 x 4\n" in plan.describe()
    assert plan.config == prepare(plan.config).config


def test_a_plan_of_images_says_nothing_of_codecs(tmp_path: Path):
    plan = prepare(configured(tmp_path))
    assert (plan.config.data.codec, plan.config.data.latent_size) == (None, None)
    assert "codec" not in plan.describe()


def test_a_plan_of_an_autoencoder_says_what_it_will_learn(images: Path, tmp_path: Path):
    words = ["model.kind=autoencoder", "model.latent_channels=5"]
    plan = prepare(configured(tmp_path, f"data.dataset_url={images}", *words))
    assert "\ncodec      to be learned: latents of 5 x 2 x 2\n" in plan.describe()
    assert "\ndiffusion " not in plan.describe()


@pytest.mark.usefixtures("latents")
@pytest.mark.parametrize(
    ("words", "kind", "line"),
    [
        (["data.codec=identity-0123456789ab"], DataError, "data.codec: identity-0123456789ab, but"),
        (["data.latent_size=8"], DataError, "data.latent_size: 8, but "),
        (["data.image_size=16"], DataError, "images of 8 pixels, data.image_size asks for 16"),
        (["data.horizontal_flip=true"], DataError, "data.horizontal_flip: "),
        (["model.image_channels=1"], ConfigError, "model.image_channels: 1, but the dataset has 3"),
        (["model.kind=autoencoder"], ConfigError, "data.codec: an autoencoder is trained on imag"),
        (["sampler.clip_x0=true"], ConfigError, "sampler.clip_x0: latents have no range to be "),
        (["model.channel_mults=[1,1,1,1]"], ConfigError, "data.image_size: 4 pixels cannot be hal"),
        (["data.mixture_urls=[{images}]"], DataError, "has codec None, "),
    ],
)
def test_what_contradicts_the_latents_is_one_line(
    images: Path, tmp_path: Path, words: list[str], kind: type[Exception], line: str
):
    words = [word.format(images=images) for word in words]
    with pytest.raises(kind) as error:
        prepare(of_latents(tmp_path, *words))
    assert line in line_of(error)
    assert not (tmp_path / "runs").exists()


def test_mirrored_latents_may_be_mirrored(
    images: Path, tmp_path: Path, encoded: Callable[..., Path]
):
    encoded(images, BlockDct(1, 2, 3), tmp_path / "latents", mirrored=True)
    assert prepare(of_latents(tmp_path, "data.horizontal_flip=true")).config.data.horizontal_flip


def test_latents_without_their_codec_are_refused(latents: Path, tmp_path: Path):
    codec = read_manifest(str(latents)).latents.codec
    (latents / codec / MANIFEST).unlink()  # half of a folder
    for _ in range(2):
        with pytest.raises(DataError) as error:
            prepare(of_latents(tmp_path))
        assert line_of(error) == (
            f"{latents}/{codec}, the codec of its latents, is missing; encode the dataset again"
        )
        shutil.rmtree(latents / codec, ignore_errors=True)


def test_another_codec_in_the_place_of_the_latents_own_is_refused(latents: Path, tmp_path: Path):
    codec = read_manifest(str(latents)).latents.codec
    stored.save(BlockDct(1, 2, 4), latents / codec)
    seal(latents / codec)
    with pytest.raises(DataError) as error:
        prepare(of_latents(tmp_path))
    assert line_of(error) == f"{latents}/{codec} holds another codec; encode the dataset again"
    with pytest.raises(DataError, match="holds another codec"):
        fetch_codec(str(latents), codec)


@pytest.mark.parametrize("sealed", [False, True])
def test_changed_weights_of_a_codec_are_found_before_a_run_keeps_it(
    images: Path, tmp_path: Path, encoded: Callable[..., Path], sealed: bool
):
    latents = encoded(images, Autoencoder(1, 2, 8, [1], 1, 2), tmp_path / "latents")
    plan = prepare(of_latents(tmp_path))
    weights = latents / str(plan.config.data.codec) / stored.WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    if sealed:
        seal(weights.parent)
    with pytest.raises(DataError) as error:
        keep_codec(plan.config, plan.run)
    assert ("the weights were changed" if sealed else "has a damaged") in line_of(error)
    assert plan.run.names() == []
    assert str(error.value).startswith(f"{weights.parent}")


def test_a_run_keeps_the_codec_of_its_latents_once(latents: Path, tmp_path: Path):
    plan = prepare(of_latents(tmp_path))
    keep_codec(plan.config, plan.run)
    kept = Path(plan.run.url, CODEC)
    before = {path.name: path.stat().st_mtime_ns for path in kept.iterdir()}
    assert before.keys() == {stored.FILE, spaces.SCALE, MANIFEST}
    space, said = spaces.load(kept), read_manifest(str(latents)).latents
    assert said is not None
    assert json.loads((kept / spaces.SCALE).read_text()) == {"mean": said.mean, "std": said.std}
    assert stored.fingerprint(space.codec) == said.codec
    keep_codec(plan.config, plan.run)
    assert {path.name: path.stat().st_mtime_ns for path in kept.iterdir()} == before
    (kept / MANIFEST).unlink()  # killed halfway
    keep_codec(plan.config, plan.run)
    assert spaces.load(kept) is not None
    assert (kept / MANIFEST).exists()


def test_a_run_does_not_go_on_with_latents_of_another_scale(
    latents: Path, tmp_path: Path, encoded: Callable[..., Path]
):
    """What it has learned would be decoded by means and deviations that it never saw."""
    plan = prepare(of_latents(tmp_path))
    keep_codec(plan.config, plan.run)
    others = tmp_path / "others"
    pack(digits(120), Recipe(), str(others))
    shutil.rmtree(latents)
    encoded(others, BlockDct(1, 2, 3), latents)
    with pytest.raises(UsageError) as error:
        keep_codec(plan.config, plan.run)
    assert "by the means and deviations of another dataset" in line_of(error)


def test_a_run_on_latents_does_not_go_on_with_those_of_another_codec(
    images: Path, latents: Path, tmp_path: Path, encoded: Callable[..., Path]
):
    plan = prepare(of_latents(tmp_path))
    plan.run.write(CONFIG, configs.dump(plan.config))
    prepare(of_latents(tmp_path))
    shutil.rmtree(latents)
    encoded(images, BlockDct(1, 2, 4), latents)
    with pytest.raises(UsageError) as error:
        prepare(of_latents(tmp_path))
    assert f"data.codec: '{plan.config.data.codec}' -> 'block-dct-" in str(error.value)


def test_a_perceptual_distance_is_looked_at_before_a_cluster_is_asked_for(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    keys = "model.kind=autoencoder", "autoencoder.perceptual_url=lpips.pt"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"perceptual_url: there is no file .*/lpips\.pt$"):
        prepare(configured(tmp_path, f"data.dataset_url={images}", *keys))
    (tmp_path / "lpips.pt").write_text("no module")
    with pytest.raises(UsageError, match=r"lpips\.pt is not a TorchScript file$"):
        prepare(configured(tmp_path, f"data.dataset_url={images}", *keys))
