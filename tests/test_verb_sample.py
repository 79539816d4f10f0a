"""Sampling from its command line to its files and exit codes."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from ray_diffusion import config as configs
from ray_diffusion import errors, sample
from ray_diffusion.data.packing.embedded import digits
from ray_diffusion.storage import seal

if TYPE_CHECKING:
    from latent_run import LatentRun

pytest_plugins = ["latent_run"]
pytestmark = pytest.mark.usefixtures("_in_a_directory_of_its_own")


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
def _pictures(_in_a_directory_of_its_own: None) -> None:
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


# Models that draw latents


def test_a_model_of_latents_draws_images(latent_run: "LatentRun"):
    found = sampled(latent_run.run)
    assert (found["images"].shape, found["images"].dtype) == ((4, 8, 8, 1), np.uint8)
    assert len(np.unique(found["images"], axis=0)) == 4


@pytest.mark.usefixtures("_pictures")
def test_variations_of_a_picture_are_close_to_it_on_latents_too(latent_run: "LatentRun"):
    three = digit(3).astype(int)[..., None]
    words = ["init_image=three.png", "num_inference_steps=50"]
    near = sampled(latent_run.run, *words, "strength=0.02")["images"]
    far = sampled(latent_run.run, *words, "strength=1")["images"]
    assert np.abs(near - three).mean() < 5 < np.abs(far - three).mean()


@pytest.mark.usefixtures("_pictures")
def test_latents_of_what_a_mask_keeps_come_back_exactly(latent_run: "LatentRun"):
    words = ["init_image=three.png", "mask=mask.png", "resamplings=2"]
    found = sampled(latent_run.run, *words)["images"][..., 0]
    assert (found[:, 4:] == digit(3)[4:]).all()
    assert all((image[:4] != digit(3)[:4]).any() for image in found)


@pytest.mark.usefixtures("_pictures")
def test_paths_through_latents_lead_from_end_to_end(latent_run: "LatentRun"):
    path = sampled(latent_run.run, "interpolate_to_seed=7", "class_label=2")["images"].astype(int)
    for end, seed in ((path[0], 0), (path[-1], 7)):
        first = sampled(latent_run.run, f"seed={seed}", "class_label=2")["images"][0]
        assert np.abs(end - first).max() <= 1
    words = ["init_image=three.png", "num_inference_steps=50", "strength=0.02"]
    mixes = sampled(latent_run.run, *words, "interpolate_to_image=zero.png")["images"].astype(int)
    assert np.abs(mixes[0, ..., 0] - digit(3)).mean() < 5
    assert np.abs(mixes[-1, ..., 0] - digit(0)).mean() < 5


@pytest.mark.usefixtures("_pictures")
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["init_image=three.png", "noise_sigma=0.5"], "noise_sigma: the model draws latents, and "),
        (["init_image=wide.png"], "wide.png has 9x8 pixels, must have the model's 8x8"),
    ],
)
def test_what_latents_cannot_do_is_one_line(
    latent_run: "LatentRun", capsys: pytest.CaptureFixture[str], words: list[str], line: str
):
    assert errors.run(sample.main, [str(latent_run.run), *words]) == 2
    [found] = capsys.readouterr().err.splitlines()
    assert line in found


def test_an_autoencoder_draws_nothing(
    latent_run: "LatentRun", tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = configs.override(configs.load([]), {"model.kind": "autoencoder"})
    for name in ("config.yaml", "ema.safetensors"):
        (tmp_path / name).write_bytes((latent_run.checkpoint / name).read_bytes())
    (tmp_path / "config.yaml").write_text(configs.dump(config))
    seal(tmp_path)
    assert errors.run(sample.main, [str(tmp_path)]) == 2
    [found] = capsys.readouterr().err.splitlines()
    assert "is an autoencoder, which draws nothing; python -m ray_diffusion.encode makes" in found
