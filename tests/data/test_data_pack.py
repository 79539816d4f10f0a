import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_diffusion.data.builtin import resolve
from ray_diffusion.data.manifest import read_manifest
from ray_diffusion.data.pack import pack, split
from ray_diffusion.data.reader import Dataset
from ray_diffusion.data.sources import SOURCES, Example, Source, digits
from ray_diffusion.errors import StorageError, UsageError
from ray_diffusion.storage import MANIFEST, Directory


def stripes(image_size: int) -> Source:
    """Sixty colour images of three classes, of 30, 20 and 10 images."""

    def examples() -> Iterator[Example]:
        for i in range(60):
            image = np.full((image_size, image_size, 3), i, np.uint8)
            image[:, ::2, 1] = 255 - i
            yield Example(f"stripes-{i:02d}", image, 0 if i < 30 else 1 if i < 50 else 2)

    return Source(("many", "some", "few"), examples())


@pytest.fixture(autouse=True)
def _stripes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "stripes", stripes)


def content(url: str) -> dict[str, bytes | None]:
    directory = Directory(url)
    return {name: directory.read(name) for name in directory.names()}


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 4), max_size=200),
    st.sampled_from([0.1, 0.2, 0.5]),
    st.randoms(use_true_random=False),
)
def test_a_split_takes_the_same_share_of_each_class_in_whatever_order_they_come(
    labels: list[int], fraction: float, random
):
    pixel = np.zeros((1, 1), np.uint8)
    examples = [Example(f"{i:03d}", pixel, label) for i, label in enumerate(labels)]
    splits = split(examples, fraction)
    keys = {name: {e.key for e in members} for name, members in splits.items()}
    assert len(keys["train"]) + len(keys["val"]) == len(labels)
    assert keys["train"] | keys["val"] == {e.key for e in examples}
    held_out = Counter(e.label for e in splits["val"])
    for label, count in Counter(labels).items():
        assert abs(held_out[label] - count * fraction) <= 0.5

    random.shuffle(examples)
    assert {name: {e.key for e in m} for name, m in split(examples, fraction).items()} == keys


def test_the_same_request_writes_the_same_bytes(tmp_path: Path, remote: str):
    first = pack("stripes", str(tmp_path), 8, examples_per_shard=20)
    again = pack("stripes", remote, 8, examples_per_shard=20)
    assert first == again
    assert first.fingerprint == again.fingerprint
    assert content(str(tmp_path)) == content(remote)


def test_another_request_has_another_fingerprint(tmp_path: Path):
    requests = [{}, {"image_size": 16}, {"val_fraction": 0.5}, {"examples_per_shard": 10}]
    found = {
        pack("stripes", str(tmp_path / str(i)), **{"image_size": 8} | request).fingerprint
        for i, request in enumerate(requests)
    }
    assert len(found) == len(requests)


def test_the_manifest_says_what_the_shards_hold(tmp_path: Path):
    written = pack("stripes", str(tmp_path), 8, examples_per_shard=20)
    assert read_manifest(str(tmp_path)) == written
    assert written.classes == ("many", "some", "few")
    assert (written.image_size, written.channels) == (8, 3)
    assert written.class_counts == {"train": [24, 16, 8], "val": [6, 4, 2]}
    assert [s.examples for s in written.splits["train"]] == [20, 20, 8]
    assert [s.examples for s in written.splits["val"]] == [12]

    shards = [shard for shards in written.splits.values() for shard in shards]
    assert Directory(str(tmp_path)).names() == sorted([MANIFEST, *(s.name for s in shards)])
    train = Dataset(str(tmp_path), "train", 8, 0)
    pixels = train.read(0, len(train)).images.double() / 255
    assert written.channel_mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-6)
    std = pixels.std((0, 2, 3), correction=0).tolist()
    assert written.channel_std == pytest.approx(std, abs=1e-6)


# It leaves files for the garbage collector to close.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_webdataset_reads_our_shards(tmp_path: Path):
    manifest = pack("stripes", str(tmp_path), 8, examples_per_shard=20)
    source = {e.key: e for e in stripes(8).examples}
    found = []
    for shard in manifest.splits["train"] + manifest.splits["val"]:
        shards = webdataset.WebDataset(str(tmp_path / shard.name), shardshuffle=False)
        found += list(shards.decode("rgb8"))
    assert sorted(e["__key__"] for e in found) == sorted(source)
    for example in found:
        np.testing.assert_array_equal(example["png"], source[example["__key__"]].image)
        assert example["cls"] == source[example["__key__"]].label


def test_shards_mix_the_classes(tmp_path: Path):
    pack("stripes", str(tmp_path), 8, examples_per_shard=24)
    train = Dataset(str(tmp_path), "train", 8, 0)
    for start in (0, 24):
        assert set(train.read(start, start + 24).labels.tolist()) == {0, 1, 2}


def test_an_interrupted_packer_leaves_no_dataset(tmp_path: Path):
    shards = pack("stripes", str(tmp_path / "whole"), 8, examples_per_shard=20).splits["train"]
    out = tmp_path / "out"
    obstacle = out / shards[1].name / "in-the-way"
    obstacle.mkdir(parents=True)
    with pytest.raises(StorageError, match=f"cannot write {out}/{shards[1].name}: "):
        pack("stripes", str(out), 8, examples_per_shard=20)
    assert Directory(str(out)).names() == sorted(s.name for s in shards[:2])

    obstacle.rmdir()
    obstacle.parent.rmdir()
    pack("stripes", str(out), 8, examples_per_shard=20)
    assert content(str(out)) == content(str(tmp_path / "whole"))


def test_an_interrupted_packer_leaves_the_dataset_that_was_there(tmp_path: Path):
    before = pack("stripes", str(tmp_path / "out"), 8, examples_per_shard=20)
    shards = pack("stripes", str(tmp_path / "other"), 16, examples_per_shard=20).splits["train"]
    (tmp_path / "out" / shards[1].name / "in-the-way").mkdir(parents=True)
    with pytest.raises(StorageError):
        pack("stripes", str(tmp_path / "out"), 16, examples_per_shard=20)
    train = Dataset(str(tmp_path / "out"), "train", 8, 0)
    assert train.manifest == before
    assert len(train.read(0, len(train)).labels) == len(train)


def test_an_unwritable_place_is_one_line(tmp_path: Path):
    (tmp_path / "plain").write_text("")
    with pytest.raises(StorageError, match=rf"^cannot write {tmp_path}/plain/.*: File exists$"):
        pack("stripes", str(tmp_path / "plain"), 8)


def test_digits_keep_their_grey_levels_at_their_own_size():
    classes, examples = digits(8)
    first = next(examples)
    assert classes == tuple("0123456789")
    assert first.label == 0
    assert first.image.dtype == np.uint8
    # The first row of the first digit in scikit-learn's data is 0 0 5 13 9 1 0 0, of 16.
    assert first.image[0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]


def test_digits_are_resized_to_what_is_asked_for():
    assert next(digits(16).examples).image.shape == (16, 16)


def test_a_path_or_url_is_its_own_place(monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    assert resolve("s3://bucket/data", 8) == "s3://bucket/data"
    assert resolve("data", 8) == f"{tmp_path}/data"


def test_a_builtin_is_packed_once_for_each_size(cache: Path):
    url = resolve("builtin:stripes", 8)
    assert Path(url).parent == cache / "datasets"
    written = {path: path.stat().st_mtime_ns for path in Path(url).iterdir()}
    assert resolve("builtin:stripes", 8) == url
    assert {path: path.stat().st_mtime_ns for path in Path(url).iterdir()} == written
    assert read_manifest(url).image_size == 8
    other = resolve("builtin:stripes", 16)
    assert other != url
    assert read_manifest(other).image_size == 16


def test_a_builtin_whose_packing_was_interrupted_is_packed_again():
    url = resolve("builtin:stripes", 8)
    whole = content(url)
    manifest = Path(url, MANIFEST)
    manifest.unlink()
    assert resolve("builtin:stripes", 8) == url
    assert content(url) == whole
    manifest.write_text(json.dumps({"version": 0}))
    resolve("builtin:stripes", 8)
    assert content(url) == whole


def test_a_misspelt_builtin_is_met_with_a_suggestion():
    with pytest.raises(UsageError) as error:
        resolve("builtin:digit", 8)
    assert str(error.value) == (
        "data.dataset_url: no built-in dataset 'digit'; did you mean 'builtin:digits'?"
    )


def test_an_unlike_builtin_is_met_with_what_there_is():
    with pytest.raises(UsageError) as error:
        resolve("builtin:imagenet", 8)
    assert str(error.value) == (
        "data.dataset_url: no built-in dataset 'imagenet'; there is digits, stripes"
    )


def test_a_cache_that_cannot_be_written_is_a_storage_error(monkeypatch, tmp_path: Path):
    (tmp_path / "plain").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "plain"))
    with pytest.raises(StorageError, match="set XDG_CACHE_HOME"):
        resolve("builtin:stripes", 8)
