import hashlib
import io
import tarfile
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from toy_source import toy_source

from ray_diffusion.data.manifest import Manifest, Shard
from ray_diffusion.data.packing.pack import pack
from ray_diffusion.data.packing.recipe import Recipe
from ray_diffusion.data.reader import Dataset
from ray_diffusion.errors import DataError, StorageError, UsageError
from ray_diffusion.evaluation.classifier import classifier_of
from ray_diffusion.evaluation.features import FEATURES, features_of
from ray_diffusion.storage import Directory

PLENTY = 1 << 30  # bytes
pytestmark = pytest.mark.usefixtures("_cached")


@pytest.fixture
def bars(tmp_path: Path) -> Dataset:
    """A dataset of two classes that a classifier learns in no time."""
    lines = np.zeros((2, 8, 8), np.uint8)
    lines[0, 1] = lines[1, :, 1] = 255
    source = toy_source("bars", ("row", "column"), (lines[i % 2] - i for i in range(80)))
    pack(source, Recipe(), str(tmp_path / "bars"))
    return Dataset(str(tmp_path / "bars"), "train", 8, PLENTY)


@pytest.fixture
def classless(tmp_path: Path) -> Dataset:
    """A dataset whose manifest names no classes."""
    file, shard = io.BytesIO(), io.BytesIO()
    Image.new("L", (8, 8)).save(file, "png")
    with tarfile.open(fileobj=shard, mode="w") as tar:
        for i in range(10):
            entry = tarfile.TarInfo(f"{i}.png")
            entry.size = len(file.getvalue())
            tar.addfile(entry, io.BytesIO(file.getvalue()))
    directory, content = Directory(str(tmp_path / "classless")), shard.getvalue()
    directory.write("train.tar", content)
    listed = (Shard("train.tar", 10, len(content), zlib.crc32(content), ""),)
    manifest = Manifest(8, 1, (), {"train": listed, "val": listed}, {}, [0.0], [0.0], {}, {})
    manifest.write(directory)
    return Dataset(directory.url, "train", 8, PLENTY)


@pytest.mark.parametrize("name", FEATURES)
def test_features_of_the_training_images_have_mean_0_and_deviation_1(train: Dataset, name: str):
    described = features_of(name, train).embed(train.read(0, len(train)).images)
    assert described.dtype == np.float64
    np.testing.assert_allclose(described.mean(0), 0, atol=1e-9)
    # Each says something: one with next to no deviation is left out as 0.
    np.testing.assert_allclose(described.std(0, ddof=1), 1, rtol=1e-9)


@pytest.mark.parametrize("name", FEATURES)
def test_features_of_an_image_do_not_hang_on_its_neighbours(train: Dataset, name: str):
    images, features = train.read(0, 600).images, features_of(name, train)
    together = features.embed(images)
    np.testing.assert_allclose(features.embed(images[550:553]), together[550:553], atol=1e-4)


@pytest.mark.parametrize("name", FEATURES)
def test_the_same_dataset_has_the_same_features(
    bars: Dataset, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    images, found = bars.read(0, 20).images, []
    try:
        for cache, threads in (("one", 1), ("two", 2), ("two", 1)):  # the last from the cache
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / cache))
            torch.set_num_threads(threads)
            torch.manual_seed(len(found))
            state = torch.random.get_rng_state()
            found.append(features_of(name, bars))
            assert torch.get_num_threads() == threads
            assert torch.equal(torch.random.get_rng_state(), state)  # nobody's draws are disturbed
    finally:
        torch.set_num_threads(1)
    assert len({features.fingerprint for features in found}) == 1
    for features in found[1:]:
        np.testing.assert_array_equal(features.embed(images), found[0].embed(images))


def test_different_features_have_different_fingerprints(train: Dataset, bars: Dataset):
    found = {features_of(name, data).fingerprint for name in FEATURES for data in (train, bars)}
    assert len(found) == 3  # random ones are the same for all datasets with as many channels


def test_the_kept_classifier_is_used_again(train: Dataset, digits_cache: str):
    first = classifier_of(train)
    kept = next(
        (Path(digits_cache) / "ray_diffusion" / "classifiers").glob(
            f"{train.manifest.fingerprint}-*"
        )
    )
    written = kept.stat().st_mtime_ns
    again = classifier_of(train)
    assert kept.stat().st_mtime_ns == written
    torch.testing.assert_close(first.state_dict(), again.state_dict(), rtol=0, atol=0)


def test_the_classifier_knows_digits_that_it_has_not_seen(train: Dataset, val: Dataset):
    real = val.read(0, len(val))
    hits = classifier_of(train).classify(real.images) == real.labels
    assert hits.double().mean() > 0.95


def test_without_classes_random_features_are_the_choice(classless: Dataset, train: Dataset):
    assert features_of(None, classless).name == "random"
    assert features_of(None, train).name == "classifier"
    # All its images are the same, so no feature has a scale, and none is counted.
    other = 255 - classless.read(0, 4).images
    assert not features_of(None, classless).embed(other).any()
    with pytest.raises(DataError, match="has no classes, so nothing can judge its images"):
        features_of("classifier", classless)


def test_a_cache_that_cannot_be_written_is_a_storage_error(
    train: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "plain").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "plain"))
    with pytest.raises(StorageError, match="set XDG_CACHE_HOME"):
        features_of("classifier", train)


class Corner(nn.Module):
    """The first two pixels, in [-1, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :2]


class Pixels(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Pooled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(0, keepdim=True).flatten(1)


class Colour(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x).flatten(1)


def scripted(kind: type[nn.Module], path: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit
        torch.jit.script(kind()).save(str(path))
    return str(path)


def test_a_torchscript_file_is_called_with_images_from_minus_one_to_one(
    train: Dataset, tmp_path: Path
):
    file = scripted(Corner, tmp_path / "corner.pt")
    features = features_of(file, train)
    images = torch.zeros(700, 1, 8, 8, dtype=torch.uint8)
    images[:, 0, 0, 1] = 255
    assert features.embed(images).tolist() == [[-1.0, 1.0]] * 700  # as it is, not standardised
    assert features.name == "corner.pt"
    assert features.fingerprint == hashlib.sha256(Path(file).read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda path: str(path), "there is no file {path}"),
        (lambda path: path.write_text("weights") and str(path), "{path} is not a TorchScript file"),
        (
            lambda path: torch.save({"a": torch.ones(1)}, path) or str(path),
            "{path} is not a TorchScript file",
        ),
        (
            lambda path: scripted(Pixels, path),
            "{path}, called with float32 (2, 1, 8, 8), must return shape (2, D), "
            "returned (2, 1, 8, 8)",
        ),
        (
            lambda path: scripted(Pooled, path),
            "{path}, called with float32 (2, 1, 8, 8), must return shape (2, D), returned (1, 64)",
        ),
        (
            lambda path: scripted(Colour, path),
            "{path}, called with float32 (2, 1, 8, 8), failed: ",
        ),
    ],
)
def test_a_file_that_cannot_describe_images_is_one_line(
    train: Dataset, tmp_path: Path, make: Callable[[Path], str], line: str
):
    path = tmp_path / "network.pt"
    with pytest.raises(UsageError) as error:
        features_of(make(path), train)
    assert str(error.value).startswith(f"features: {line.format(path=path)}")
    assert "\n" not in str(error.value)


def test_a_mistyped_way_is_answered_with_the_nearest(train: Dataset):
    with pytest.raises(UsageError, match=r"no 'randon'; did you mean 'random'\?"):
        features_of("randon", train)
    with pytest.raises(UsageError, match=r"no 'inception'; there is classifier, random \(or"):
        features_of("inception", train)
