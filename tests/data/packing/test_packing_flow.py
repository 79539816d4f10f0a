"""The whole packer: what it leaves behind, whoever does its tasks."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import webdataset
from toy_packing import CLASSES, RECIPE, content, stripes
from toy_source import toy_source

from ray_diffusion.data.manifest import read_manifest
from ray_diffusion.data.packing.output import REPORT, strangers
from ray_diffusion.data.packing.pack import pack
from ray_diffusion.data.packing.recipe import Recipe
from ray_diffusion.data.packing.source import Record
from ray_diffusion.data.reader import Dataset
from ray_diffusion.errors import StorageError, UsageError
from ray_diffusion.storage import MANIFEST, Directory

pytestmark = pytest.mark.usefixtures("_small_tasks")

PLENTY = 1 << 30  # bytes


def backwards(function: Callable[[Any], Any], tasks: Iterable[Any], /) -> Iterator[Any]:
    """A runner whose last task is done first."""
    done = [function(task) for task in reversed(list(tasks))]
    return iter(done[::-1])


def test_the_same_request_writes_the_same_bytes_wherever_and_in_whatever_order(
    tmp_path: Path, remote: str, whole: dict[str, bytes | None]
):
    first = pack(stripes(), RECIPE, str(tmp_path))
    again = pack(stripes(), RECIPE, remote, backwards)
    assert first == again
    assert first.fingerprint == again.fingerprint
    assert content(str(tmp_path)) == content(remote) == whole


def test_another_request_has_another_fingerprint(tmp_path: Path):
    requests: list[dict[str, Any]] = [
        {},
        {"image_size": 16},
        {"channels": 1},
        {"examples_per_shard": 20},
        {"encoding": "webp"},
    ]
    found = {
        pack(stripes(), Recipe(**request), str(tmp_path / str(i))).fingerprint
        for i, request in enumerate(requests)
    }
    assert len(found) == len(requests)


def test_the_manifest_says_what_the_shards_hold(tmp_path: Path):
    written = pack(stripes(), Recipe(examples_per_shard=15), str(tmp_path))
    assert read_manifest(str(tmp_path)) == written
    assert written.classes == CLASSES
    assert (written.image_size, written.channels) == (8, 3)
    assert written.class_counts == {"train": [20, 13, 7], "val": [10, 7, 3]}
    assert [s.examples for s in written.splits["train"]] == [15, 15, 10]
    assert [s.examples for s in written.splits["val"]] == [15, 5]
    assert written.rejected == {}

    shards = [shard for shards in written.splits.values() for shard in shards]
    names = sorted([MANIFEST, REPORT, *(s.name for s in shards)])
    assert Directory(str(tmp_path)).names() == names
    with Dataset(str(tmp_path), "train", 8, PLENTY) as train:
        found = train.read(0, len(train))
    assert np.bincount(found.labels).tolist() == written.class_counts["train"]
    pixels = found.images.double() / 255
    assert written.channel_mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-6)
    std = pixels.std((0, 2, 3), correction=0).tolist()
    assert written.channel_std == pytest.approx(std, abs=1e-6)


# It leaves files for the garbage collector to close.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_webdataset_reads_our_shards(tmp_path: Path):
    source = stripes()
    records = [record._replace(caption=f"stripe {record.key} ü") for record in source.records]
    manifest = pack(replace(source, records=records), RECIPE, str(tmp_path))
    by_key = {record.key: record for record in records}
    found = []
    for shard in manifest.splits["train"] + manifest.splits["val"]:
        shards = webdataset.WebDataset(str(tmp_path / shard.name), shardshuffle=False)
        found += list(shards.decode("rgb8"))
    assert sorted(e["__key__"] for e in found) == sorted(by_key)
    for example in found:
        record = by_key[example["__key__"]]
        np.testing.assert_array_equal(example["png"], np.asarray(record.at, np.uint8))
        assert example["cls"] == record.label
        assert example["txt"] == record.caption


def test_shards_mix_the_classes(tmp_path: Path):
    pack(stripes(), Recipe(examples_per_shard=20), str(tmp_path))
    with Dataset(str(tmp_path), "train", 8, PLENTY) as train:
        for start in (0, 20):
            assert set(train.read(start, start + 20).labels.tolist()) == {0, 1, 2}


def test_images_without_classes_and_with_long_names_are_a_dataset(tmp_path: Path):
    images = [record.at for record in stripes().records]
    source = toy_source("x" * 150, (), [np.asarray(image, np.uint8) for image in images])
    manifest = pack(source, RECIPE, str(tmp_path))
    assert manifest.classes == ()
    with Dataset(str(tmp_path), "train", 8, PLENTY) as train:
        found = train.read(0, len(train))
    assert len(found.labels) == manifest.examples("train")
    assert not found.labels.any()


def test_what_is_left_out_is_counted_by_reason(tmp_path: Path):
    source = stripes()
    twin = source.records[4]._replace(key="twin", split="train")
    plain = Record("plain", np.zeros((8, 8, 3), int).tolist(), 0)
    manifest = pack(replace(source, records=[*source.records, twin, plain]), RECIPE, str(tmp_path))
    assert manifest.rejected == {"constant": 1, "duplicate": 1}
    assert sum(map(manifest.examples, manifest.splits)) == 60


def test_progress_is_told_of_every_task(tmp_path: Path):
    told: list[tuple[str, int, int]] = []
    pack(stripes(), RECIPE, str(tmp_path), progress=lambda *said: told.append(said))
    every = range(10, 61, 10)
    assert told == [(stage, n, 60) for stage in ("inspected", "packed") for n in every]


def test_another_dataset_is_in_the_way_unless_it_may_be_overwritten(
    tmp_path: Path, whole: dict[str, bytes | None]
):
    out = str(tmp_path)
    small = pack(stripes(), RECIPE, out)
    with pytest.raises(UsageError) as caught:
        pack(stripes(), Recipe(image_size=16), out)
    assert str(caught.value) == (
        f"{out} holds another dataset (fingerprint {small.fingerprint}); "
        "choose another out, or overwrite=true"
    )
    assert content(out) == whole
    assert read_manifest(out) == small
    large = pack(stripes(), Recipe(image_size=16), out, overwrite=True)
    assert read_manifest(out) == large
    assert strangers(content(out), large) == []
    assert len(content(out)) == 1 + 2


def test_an_equal_dataset_is_written_again_if_it_may_be_overwritten(
    tmp_path: Path, whole: dict[str, bytes | None]
):
    shard = pack(stripes(), RECIPE, str(tmp_path)).splits["val"][0]
    (tmp_path / shard.name).write_bytes(b"spoiled")
    pack(stripes(), RECIPE, str(tmp_path), overwrite=True)
    assert content(str(tmp_path)) == whole


@pytest.mark.parametrize("text", ["{", '{"version": 1, "fingerprint": ""}'])
def test_a_manifest_that_cannot_be_read_is_in_the_way_unless_it_may_be_overwritten(
    tmp_path: Path, whole: dict[str, bytes | None], text: str
):
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(UsageError, match=r"manifest\.json .*; choose another out, or overwrite"):
        pack(stripes(), RECIPE, str(tmp_path))
    pack(stripes(), RECIPE, str(tmp_path), overwrite=True)
    assert content(str(tmp_path)) == whole


def test_a_dataset_of_another_pillow_need_not_be_packed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(PIL, "__version__", "0.1")
    first = pack(stripes(), RECIPE, str(tmp_path))
    monkeypatch.undo()
    assert pack(stripes(), RECIPE, str(tmp_path)) == first
    assert first.packer["pillow"] == "0.1"


def test_files_of_others_stay_where_they_are(tmp_path: Path):
    for name in ("notes.txt", "train-000000.tar", "photo.png"):
        (tmp_path / name).write_text("mine")
    pack(stripes(), RECIPE, str(tmp_path))
    for name in ("notes.txt", "train-000000.tar", "photo.png"):
        assert (tmp_path / name).read_text() == "mine"


def test_a_dataset_is_not_packed_onto_its_source(tmp_path: Path):
    source = replace(stripes(), name=str(tmp_path))
    with pytest.raises(UsageError, match="is the source itself"):
        pack(source, RECIPE, f"{tmp_path}/")


def test_workers_that_write_to_disks_of_their_own_make_no_dataset(tmp_path: Path):
    def elsewhere(function: Callable[[Any], Any], tasks: Iterable[Any], /) -> Iterator[Any]:
        for task in tasks:
            far = task._replace(out=f"{tmp_path}/far") if task.name == "val-000001" else task
            yield function(far)

    with pytest.raises(StorageError) as caught:
        pack(stripes(), RECIPE, str(tmp_path / "near"), elsewhere)
    assert "1 of 6 shards were written and are not in" in str(caught.value)
    assert "the first is val-000001-" in str(caught.value)
    assert not Path(tmp_path, "near", MANIFEST).exists()


def test_an_unwritable_place_is_one_line(tmp_path: Path):
    (tmp_path / "plain").write_text("")
    with pytest.raises(StorageError, match=rf"^cannot list {tmp_path}/plain/.*: Not a directory$"):
        pack(stripes(), RECIPE, str(tmp_path / "plain"))


def test_the_report_shows_the_dataset_and_is_there_before_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    written: list[str] = []
    put = Directory.put
    monkeypatch.setattr(
        Directory, "put", lambda self, path, name: (written.append(name), put(self, path, name))
    )
    manifest = pack(stripes(), RECIPE, str(tmp_path))
    assert written[-2:] == [REPORT, MANIFEST]
    page = (tmp_path / REPORT).read_text()
    assert manifest.fingerprint in page
    assert all(name in page for name in CLASSES)
