"""The encoder from its command line to its files and exit codes."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from local_cluster import wait_for
from tiny_config import RESOLVED, TINY
from toy_source import toy_source

from ray_diffusion import config as configs
from ray_diffusion import encode, errors
from ray_diffusion import pack as pack_verb
from ray_diffusion.data.manifest import Manifest, read_manifest
from ray_diffusion.data.packing.embedded import digits
from ray_diffusion.data.packing.output import NOTES
from ray_diffusion.data.packing.pack import pack
from ray_diffusion.data.packing.recipe import Recipe
from ray_diffusion.storage import MANIFEST, Directory
from ray_diffusion.training.harness import in_directory
from ray_diffusion.training.loop import loop
from ray_diffusion.training.retention import Keep

pytestmark = pytest.mark.usefixtures("_in_a_directory_of_its_own")

SMALL_SHARDS = Recipe(examples_per_shard=25)
CODEC_RUN = {
    **TINY,
    **RESOLVED,
    "model.kind": "autoencoder",
    "model.latent_channels": 2,
    "training.total_images": 128,
}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All digits in small shards, some digits of 10 pixels, some colour images."""
    home = tmp_path_factory.mktemp("packed")
    pack(digits(None), SMALL_SHARDS, str(home / "digits"))
    pack(digits(60), Recipe(image_size=10), str(home / "ten"))
    noise = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
    pack(toy_source("colours", "ab", noise), Recipe(val_fraction=0.4), str(home / "colours"))
    return home


@pytest.fixture(scope="module")
def codec_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an autoencoder's run of one step."""
    path = tmp_path_factory.mktemp("runs") / "codec"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        config = configs.override(configs.load([]), CODEC_RUN)
        loop(config, in_directory(Directory(str(path)), Keep(1)), torch.device("cpu"))
    return path


@pytest.fixture
def _at_hand(_in_a_directory_of_its_own: None, packed: Path, codec_run: Path, run: Path) -> None:
    """Datasets and runs by short names, in the directory that the test is in."""
    for name in ("digits", "ten", "colours"):
        Path(name).symlink_to(packed / name)
    Path("codec").symlink_to(codec_run)
    Path("denoiser").symlink_to(run)


def encoded(*words: str) -> Manifest:
    assert errors.run(encode.main, ["out=latents", *words]) == 0
    return read_manifest("latents")


def content(directory: str) -> dict[str, bytes]:
    """All files, by their path within the directory."""
    files = [path for path in Path(directory).rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


@pytest.mark.usefixtures("_at_hand")
def test_encode_says_what_it_wrote_and_what_to_type_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    manifest = encoded("source=colours", "codec=block-dct:2,3", "horizontal_flip=true")
    said = capsys.readouterr().out.splitlines()
    latents = manifest.latents
    assert latents is not None
    assert latents.shape == (2, 1, 9, 4, 4)
    assert latents.images_url == str(tmp_path / "colours")
    assert any(line.startswith(f"codec: {latents.codec}; images come back ") for line in said)
    assert said[-2:] == [
        f"{tmp_path}/latents is a dataset, fingerprint {manifest.fingerprint}",
        "next: python -m ray_diffusion.train run.name=latent "
        f"data.dataset_url={tmp_path}/latents data.image_size=8 data.horizontal_flip=true",
    ]
    assert errors.run(pack_verb.main, ["verify", "latents"]) == 0
    shards = {shard.name for of_split in manifest.splits.values() for shard in of_split}
    assert {path.name for path in Path("latents").iterdir()} == {MANIFEST, latents.codec} | shards


@pytest.mark.usefixtures("_at_hand")
def test_what_is_typed_next_is_quoted_where_it_has_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["source=colours", "codec=identity", "out=my latents"]
    assert errors.run(encode.main, words) == 0
    assert f" 'data.dataset_url={tmp_path}/my latents' " in capsys.readouterr().out


@pytest.mark.usefixtures("_at_hand")
@pytest.mark.parametrize("codec", ["block-dct:2,2", "codec"])
def test_the_distance_of_images_that_come_back_is_told(
    capsys: pytest.CaptureFixture[str], codec: str
):
    encoded("source=ten", f"codec={codec}")
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.endswith(" dB PSNR")]
    assert 1 < float(line.split()[-3]) < 60


@pytest.mark.usefixtures("_at_hand")
@pytest.mark.parametrize("codec", ["block-dct:2,4", "identity"])
def test_images_that_come_back_to_the_bit_do_so_exactly(
    capsys: pytest.CaptureFixture[str], codec: str
):
    encoded("source=ten", f"codec={codec}")
    assert "; images come back from their latents exactly\n" in capsys.readouterr().out


@pytest.mark.usefixtures("_at_hand")
@pytest.mark.parametrize("damage", ["gone", "torn"])
def test_a_codec_that_was_lost_is_there_again_after_the_same_command(damage: str):
    words = ["source=ten", "codec=codec"]
    latents = encoded(*words).latents
    assert latents is not None
    folder = Path("latents", latents.codec)
    before = content(str(folder))
    if damage == "gone":
        shutil.rmtree(folder)
    else:
        (folder / "codec.safetensors").write_bytes(b"half of it")
    encoded(*words)
    assert content(str(folder)) == before


@pytest.mark.usefixtures("_at_hand")
def test_a_trained_autoencoder_encodes_means_and_variances(codec_run: Path):
    checkpoint = next(path for path in codec_run.iterdir() if path.name.startswith("checkpoint"))
    found = encoded("source=ten", "codec=codec")
    assert found.latents is not None
    assert (found.latents.shape, found.latents.codec[:12]) == ((1, 2, 2, 5, 5), "autoencoder-")
    assert encoded("source=ten", f"codec={checkpoint}") == found  # the very codec


@pytest.mark.usefixtures("_at_hand")
def test_the_same_command_is_done_at_once_the_second_time(capsys: pytest.CaptureFixture[str]):
    words = ["source=ten", "codec=block-dct:2,4"]
    first = encoded(*words)
    before = {path: path.stat().st_mtime_ns for path in Path("latents").rglob("*")}
    capsys.readouterr()
    assert encoded(*words, "workers=2") == first  # Ray is not even started
    assert capsys.readouterr().out.startswith("encoded already, by this very request\ntrain ")
    assert {path: path.stat().st_mtime_ns for path in Path("latents").rglob("*")} == before


def test_a_built_in_dataset_is_encoded_at_the_size_asked_for():
    found = encoded("source=builtin:digits", "codec=block-dct:2,1", "image_size=4")
    assert found.latents is not None
    assert (found.image_size, found.latents.size) == (4, 2)
    assert found.latents.images_url == "builtin:digits"
    assert encoded("source=builtin:digits", "codec=block-dct:2,1", "image_size=4") == found


@pytest.mark.usefixtures("_at_hand")
def test_an_encoder_whose_process_was_killed_goes_on_where_it_was(tmp_path: Path):
    words = ["source=digits", "codec=block-dct:2,4", "horizontal_flip=true"]
    whole = encoded(*words)
    undisturbed = content("latents")
    shutil.rmtree("latents")
    process = subprocess.Popen(
        [sys.executable, "-m", "ray_diffusion.encode", *words, "out=latents"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def begun() -> bool:
        assert process.poll() is None
        return len(list(Path("latents", NOTES).rglob("*.json"))) >= 3

    wait_for(begun, "three notes")
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not Path("latents", MANIFEST).exists()
    noted = {note.stem for note in Path("latents", NOTES).rglob("*.json")}
    assert 3 <= len(noted) < sum(map(len, whole.splits.values()))

    def finished() -> dict[str, int]:
        shards = Path("latents").glob("*.tar")
        return {
            shard.name: shard.stat().st_ino
            for shard in shards
            if shard.name.rpartition("-")[0] in noted
        }

    before = finished()
    assert encoded(*words) == whole
    assert content("latents") == undisturbed
    assert finished() == before  # what was done was not done again


@pytest.mark.usefixtures("_at_hand")
def test_another_dataset_is_replaced_only_where_that_is_asked_for(
    capsys: pytest.CaptureFixture[str],
):
    first = encoded("source=ten", "codec=block-dct:2,4")
    for words in (["codec=block-dct:2,3"], ["codec=block-dct:2,4", "horizontal_flip=true"]):
        assert errors.run(encode.main, ["source=ten", "out=latents", *words]) == 2
        [line] = [one for one in capsys.readouterr().err.splitlines() if one.startswith("error")]
        assert line.endswith(
            f"/latents holds another dataset (fingerprint {first.fingerprint}); choose another "
            "out, or overwrite=true"
        )
        assert read_manifest("latents") == first
    second = encoded("source=ten", "codec=block-dct:2,3", "overwrite=true")
    assert second.latents is not None
    folders = {path.name for path in Path("latents").iterdir() if path.is_dir()}
    assert folders == {second.latents.codec}


ABSENT = not importlib.util.find_spec("diffusers")
CASES = [
    (["source=digits", "codec=identiy"], 2, "codec: {cwd}/identiy is no model: it is neither"),
    (["source=digits", "codec=identiy"], 2, "; other codecs are identity, block-dct:FACTOR,"),
    (["source=digits", "codec=block_dct:4,6"], 2, "codec: {cwd}/block_dct:4,6 is no model"),
    (["source=digits", "codec=runs/none"], 2, "codec: {cwd}/runs/none is no model"),
    (["source=digits", "codec=block-dct:5"], 2, "codec: must be block-dct:FACTOR,COEFFICIENTS, "),
    (["source=digits", "codec=block-dct:4,99"], 2, "99 coefficients of squares of side 4; it must"),
    (["source=digits", "codec=block-dct:0,1"], 2, "squares of side 0; it must be 1 to 64"),
    (["source=digits", "codec=block-dct:4,0"], 2, "0 coefficients of squares of side 4"),
    (["source=digits", "codec=denoiser"], 2, "is no autoencoder but a unet; train one with "),
    (["source=digits", "codec=mlflow:0123"], 2, "has no mlflow:0123"),
    (["source=digits", "codec=models:/codec@best"], 2, "has no models:/codec@best"),
    (["source=latents", "codec=identity"], 2, "source: {cwd}/latents holds latents already"),
    (["source=latents", "codec=identity"], 2, "encode the images that they were made of, /"),
    (["source=ten", "codec=block-dct:4,6"], 2, "pixels, which images of 10 pixels cannot be cut"),
    (["source=digits", "codec=identity", "image_size=16"], 2, "image_size: 16, but {cwd}/digits "),
    (["source=colours", "codec=codec"], 2, "codec is of images with 1 channels, the source's have"),
    (["source=digits", "codec=identity", "out=digits"], 2, "out: {cwd}/digits is the source itsel"),
    (["source=digits", "codec=identity", "out=ten"], 2, "{cwd}/ten holds another dataset"),
    (["source=nowhere", "codec=identity"], 3, "{cwd}/nowhere is not a dataset: it has no manifes"),
    (["source=builtin:digitz", "codec=identity"], 2, "did you mean 'builtin:digits'?"),
    (["source=digits", "codec=identity", "out=plain/x"], 3, "cannot write {cwd}/plain/x"),
    (["source=digits"], 2, "codec: missing"),
    (["codec=identity"], 2, "source: missing"),
    (["source=digits", "codec=identity", "image_size=2"], 2, "image_size: must be at least 4"),
    (["source=digits", "codec=identity", "workers=0"], 2, "workers: must be at least 1, got 0"),
    (["source=digits", "codex=identity", "codec=identity"], 2, "did you mean 'codec'?"),
    (
        ["source=digits", "codec=diffusers:./nowhere"],
        2,
        "pip install 'ray-diffusion[diffusers]'" if ABSENT else "there is no directory nowhere",
    ),
]


@pytest.fixture(scope="module")
def latents(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("latents")
    words = [f"source={packed}/ten", "codec=block-dct:2,4", f"out={out}"]
    assert errors.run(encode.main, words) == 0
    return out


@pytest.mark.usefixtures("_at_hand")
@pytest.mark.parametrize(("words", "code", "line"), CASES)
def test_what_encode_cannot_do_is_one_line_and_leaves_nothing(
    latents: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    line: str,
):
    Path("latents").symlink_to(latents)
    Path("plain").touch()
    if not any(word.startswith("out=") for word in words):
        words = [*words, "out=x"]
    assert errors.run(encode.main, words) == code
    [found] = capsys.readouterr().err.splitlines()
    assert found.startswith("error: ")
    assert line.format(cwd=tmp_path) in found
    assert not Path("x").exists()


@pytest.mark.usefixtures("_at_hand")
def test_encode_asks_for_a_place(capsys: pytest.CaptureFixture[str]):
    assert errors.run(encode.main, ["source=ten", "codec=identity"]) == 2
    assert capsys.readouterr().err == "error: out: missing\n"


@pytest.mark.usefixtures("_at_hand")
def test_a_damaged_autoencoder_is_one_line(
    codec_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    damaged = shutil.copytree(codec_run, tmp_path / "damaged")
    [weights] = damaged.glob("*/ema.safetensors")
    weights.write_bytes(b"damaged")
    checkpoint = weights.parent
    assert errors.run(encode.main, ["source=ten", f"codec={checkpoint}", "out=x"]) == 3
    assert capsys.readouterr().err == f"error: {checkpoint} has a damaged ema.safetensors\n"


@pytest.mark.usefixtures("_at_hand")
def test_a_damaged_source_is_one_line_and_no_dataset(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    damaged = shutil.copytree(packed / "ten", tmp_path / "damaged")
    shard = sorted(damaged.glob("*.tar"))[0]
    flipped = bytearray(shard.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    shard.write_bytes(flipped)
    assert errors.run(encode.main, ["source=damaged", "codec=identity", "out=x"]) == 3
    [line] = [one for one in capsys.readouterr().err.splitlines() if one.startswith("error")]
    assert shard.name in line
    assert not Path("x", MANIFEST).exists()
