import io
import json
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ray_diffusion.data.manifest import Manifest, Shard
from ray_diffusion.data.pack import pack
from ray_diffusion.data.reader import Dataset
from ray_diffusion.data.sources import SOURCES, Example, Source
from ray_diffusion.errors import DataError, StorageError, UsageError
from ray_diffusion.evaluation.classifier import classifier_of
from ray_diffusion.evaluation.report import LEAST_IMAGES, evaluate
from ray_diffusion.storage import MANIFEST, Directory, cache_dir

PLENTY = 1 << 30  # bytes
FD, ACCURACY = "sample/fd", "sample/class_accuracy"


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache for all tests: the classifier takes seconds to train."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def train(_cache: None) -> Iterator[Dataset]:
    dataset = Dataset("builtin:digits", "train", 8, PLENTY)
    yield dataset
    dataset.close()


@pytest.fixture(scope="module")
def val(_cache: None) -> Iterator[Dataset]:
    dataset = Dataset("builtin:digits", "val", 8, PLENTY)
    yield dataset
    dataset.close()


def test_real_images_reach_their_own_floor(train: Dataset, val: Dataset):
    real = val.read(0, len(val))
    report = evaluate(real.images, real.labels, train, val)
    for figure in report.figures.values():
        assert figure.value == figure.floor
        assert figure.count == len(val)
    assert report.figures[ACCURACY].floor > 0.95
    assert report.dataset_fingerprint == train.manifest.fingerprint
    assert set(report.per_class) == set("0123456789")
    counts = np.bincount(real.labels)
    weighted = np.dot(list(report.per_class.values()), counts) / counts.sum()
    assert weighted == pytest.approx(report.figures[ACCURACY].value)


def test_shuffled_labels_are_right_one_time_in_ten(train: Dataset, val: Dataset):
    real = val.read(0, len(val))
    shuffled = real.labels[torch.randperm(len(val), generator=torch.Generator().manual_seed(0))]
    figures = evaluate(real.images, shuffled, train, val).figures
    # Four standard deviations of 359 throws at 1/10.
    assert figures[ACCURACY].value == pytest.approx(0.1, abs=0.064)
    assert figures[FD].value == figures[FD].floor  # labels are not its matter


def test_noise_and_blurred_images_are_far_from_real_ones(train: Dataset, val: Dataset):
    real = val.read(0, len(val))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, real.images.shape, generator=generator, dtype=torch.uint8)
    blurred = torch.nn.functional.avg_pool2d(real.images.float(), 3, 1, 1).to(torch.uint8)
    distances = [
        evaluate(images, real.labels, train, val).figures[FD].value
        for images in (real.images, blurred, noise)
    ]
    assert 10 * distances[0] < min(distances[1:])


def test_every_feature_says_something_about_real_images(train: Dataset):
    # Features are divided by their deviations: one near zero would drown all others.
    features, _ = classifier_of(train).describe(train.read(0, len(train)).images)
    deviations = features.std(0)
    assert deviations.min() > 0.01 * deviations.max()


def test_drawn_and_real_images_are_compared_at_equal_counts(train: Dataset, val: Dataset):
    real = val.read(0, 200)
    figures = evaluate(real.images, real.labels, train, val).figures
    assert figures[FD].count == 200
    assert figures[FD].value == figures[FD].floor


def test_the_kept_classifier_gives_the_same_figures(train: Dataset, val: Dataset):
    real = val.read(0, len(val))
    first = evaluate(real.images, real.labels, train, val)
    (kept,) = (cache_dir() / "classifiers").iterdir()
    assert train.manifest.fingerprint in kept.name
    written = kept.stat().st_mtime_ns
    assert evaluate(real.images, real.labels, train, val) == first
    assert kept.stat().st_mtime_ns == written


def test_training_the_classifier_again_gives_the_same_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def bars(image_size: int) -> Source:
        lines = np.zeros((2, image_size, image_size), np.uint8)
        lines[0, 1] = lines[1, :, 1] = 255
        return Source(
            ("row", "column"), (Example(f"bar-{i:03d}", lines[i % 2] - i, i % 2) for i in range(80))
        )

    monkeypatch.setitem(SOURCES, "bars", bars)
    pack("bars", str(tmp_path / "bars"), 8)
    dataset = Dataset(str(tmp_path / "bars"), "train", 8, PLENTY)
    state = torch.random.get_rng_state()
    found = []
    for name in ("one", "two"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        found.append(classifier_of(dataset).state_dict())
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    assert torch.equal(torch.random.get_rng_state(), state)  # nobody's draws are disturbed
    dataset.close()


def test_too_few_images_are_refused_by_count(train: Dataset, val: Dataset):
    real = val.read(0, LEAST_IMAGES - 1)
    with pytest.raises(UsageError) as error:
        evaluate(real.images, real.labels, train, val)
    assert str(error.value) == (
        "num_images: at least 128 drawn and validation images are needed, got 127 and 359"
    )


@pytest.fixture
def classless(tmp_path: Path) -> Dataset:
    """A dataset whose manifest names no classes."""
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "png")
    directory = Directory(str(tmp_path / "classless"))
    shard = io.BytesIO()
    with tarfile.open(fileobj=shard, mode="w") as tar:
        for i in range(LEAST_IMAGES):
            entry = tarfile.TarInfo(f"{i}.png")
            entry.size = len(file.getvalue())
            tar.addfile(entry, io.BytesIO(file.getvalue()))
    content = shard.getvalue()
    directory.write("train.tar", content)
    listed = (Shard("train.tar", LEAST_IMAGES, len(content), zlib.crc32(content), ""),)
    splits = {"train": listed, "val": listed}
    manifest = Manifest(8, 1, (), splits, {}, [0.0], [0.0], {}, {})
    directory.write(MANIFEST, manifest.to_json())
    return Dataset(directory.url, "train", 8, PLENTY)


def test_a_dataset_without_classes_cannot_be_judged(classless: Dataset):
    real = classless.read(0, len(classless))
    with pytest.raises(DataError) as error:
        evaluate(real.images, real.labels, classless, classless)
    assert str(error.value) == (
        f"{classless.url} has no classes, so nothing can judge its images by class"
    )
    classless.close()


def test_a_cache_that_cannot_be_written_is_a_storage_error(
    train: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "plain").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "plain"))
    with pytest.raises(StorageError, match="set XDG_CACHE_HOME"):
        classifier_of(train)


def test_a_report_is_plain_data_and_a_table(train: Dataset, val: Dataset):
    real = val.read(0, 150)
    report = evaluate(real.images, real.labels, train, val)
    assert json.loads(json.dumps(report.to_dict()))["figures"][FD]["count"] == 150
    head, *rows, classes = report.table().splitlines()
    assert head.split() == ["drawn", "real", "images"]
    assert [row.split()[0] for row in rows] == [ACCURACY, FD]
    assert classes.startswith("accuracy by class: 0 ")


def test_a_class_that_was_not_asked_for_has_no_accuracy(train: Dataset, val: Dataset):
    real = val.read(0, len(val))
    even = real.labels % 2 == 0
    report = evaluate(real.images[even], real.labels[even], train, val)
    assert set(report.per_class) == set("02468")
