"""What a sweep refuses and says before a cluster is asked for anything."""

from dataclasses import replace
from pathlib import Path

import pytest

from ray_diffusion.cluster.sweeping.plan import Sweeping, opened
from ray_diffusion.config.sweep import load_sweep
from ray_diffusion.data.builtin import resolve
from ray_diffusion.data.manifest import Latents, read_manifest
from ray_diffusion.errors import ConfigError, DataError
from ray_diffusion.storage import Directory

DCT, LEARNED = "block-dct-0123456789ab", "autoencoder-0123456789ab"
CODECS = {"dct": DCT, "dct-mirrored": DCT, "learned": LEARNED}  # by dataset


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that has them."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _datasets(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the sweep: digits as images, and datasets of their latents."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(digits))
    monkeypatch.chdir(tmp_path)
    images = read_manifest(resolve("builtin:digits", 8))
    images.write(Directory("images"))
    for name, codec in CODECS.items():
        latents = Latents(codec, 4, 4, 1, False, [0.0], [1.0], "builtin:digits", images.fingerprint)
        replace(images, latents=latents).write(Directory(name))


def planned(parameters: str, *words: str, metric: str = "val/score", more: str = "") -> Sweeping:
    file = Path("sweep.yaml")
    early = "" if metric == "val/score" else "early_terminate: {type: none}\n"
    head = f"run_cap: 8\nmetric: {{name: {metric}}}\n{early}{more}"
    file.write_text(f"{head}parameters:\n  {parameters}\n  run.seed: {{values: [0, 1]}}\n")
    return opened(load_sweep(file, words), file, "command")


def varied(*urls: str) -> str:
    return f"data.dataset_url: {{values: [{', '.join(urls)}]}}"


@pytest.mark.parametrize("method", ["grid", "random", "bayes"])
@pytest.mark.parametrize("metric", ["val/score", "val/vlb_bpd", "val/loss", "train/loss"])
def test_errors_in_the_latents_of_different_codecs_do_not_compare(method: str, metric: str):
    datasets = varied("builtin:digits", "images", "learned", "dct")
    with pytest.raises(ConfigError) as caught:
        planned(datasets, metric=metric, more=f"method: {method}\n")
    assert caught.value.problems == [
        f"metric.name: {metric} does not compare models of different codecs' latents "
        f"(builtin:digits: pixels; learned: {LEARNED}): it is measured on the latents; sample/fd "
        "compares decoded images"
    ]
    assert not Path("runs").exists()


def test_two_codecs_do_not_compare_in_keys_that_vary_together_either():
    datasets = "data: {values: [{dataset_url: dct}, {dataset_url: learned}]}"
    with pytest.raises(ConfigError, match=rf"\(dct: {DCT}; learned: {LEARNED}\)"):
        planned(datasets)


@pytest.mark.parametrize("urls", [("builtin:digits", "images"), ("dct", "dct-mirrored")])
def test_data_of_one_codec_compare_by_any_figure(urls: tuple[str, ...]):
    assert planned(varied(*urls)).plan.num_trials == 8


@pytest.mark.parametrize("metric", ["sample/fd", "sample/kid"])
def test_images_compare_whatever_their_models_work_on(metric: str):
    assert planned(varied("builtin:digits", "dct", "learned"), metric=metric).plan.draws


def test_data_that_is_not_there_is_named_before_anything_starts():
    with pytest.raises(DataError, match=r"/nothing is not a dataset: it has no manifest\.json"):
        planned(varied("builtin:digits", "nothing"))


def test_the_best_are_confirmed_by_their_images():
    told = planned("optim.lr: {values: [1e-3, 1e-4]}").describe()
    line = "confirmed  the best 3 with 2 more seeds, by sample/fd of 500 images"
    assert line in told.splitlines()


def test_autoencoders_draw_nothing_and_are_confirmed_by_their_own_error():
    told = planned("autoencoder.kl_weight: {values: [0, 1e-6]}", "model.kind=autoencoder")
    assert "confirmed  the best 3 with 2 more seeds, by val/score" in told.describe().splitlines()


def test_without_a_confirmation_none_is_told_of():
    told = planned("optim.lr: {values: [1e-3, 1e-4]}", more="confirm: {top: 0}\n").describe()
    assert "confirmed" not in told
