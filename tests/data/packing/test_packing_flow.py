"""The whole packer: what it leaves behind, whoever does its tasks and whatever interrupts it."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import toy_packing
import webdataset
from toy_packing import CLASSES, PER_TASK, RECIPE, TASKS, Killed, content, counted_stripes, stripes
from toy_source import load, toy_source

from ray_diffusion.data.manifest import read_manifest
from ray_diffusion.data.packing import pack as packing
from ray_diffusion.data.packing.pack import NOTES, REPORT, pack
from ray_diffusion.data.packing.recipe import Recipe
from ray_diffusion.data.packing.source import Record
from ray_diffusion.data.reader import Dataset
from ray_diffusion.errors import DataError, StorageError, UsageError
from ray_diffusion.storage import MANIFEST, Directory

PLENTY = 1 << 30  # bytes
PICTURES = 40  # of the contact sheet: all that there are to train on


@pytest.fixture(autouse=True)
def _small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "PER_TASK", PER_TASK)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes | None]:
    """What an undisturbed packer leaves."""
    out = str(tmp_path_factory.mktemp("whole"))
    pack(stripes(), RECIPE, out)
    return content(out)


def loads(log: Path) -> int:
    """How many images were loaded since the last time this was asked."""
    count = len(log.read_text().splitlines())
    log.unlink()
    return count


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


def test_a_request_that_was_fulfilled_is_not_done_again(tmp_path: Path):
    log, out = tmp_path / "log", str(tmp_path / "out")
    first = pack(counted_stripes(log), RECIPE, out)
    assert loads(log) == 60 + 60 + PICTURES
    assert pack(counted_stripes(log), RECIPE, out) == first
    assert not log.exists()


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
    assert set(content(out)) == packing.own_files(large) & set(content(out))
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


@pytest.mark.parametrize("last", range(1, 60 + 60 + PICTURES, 19))
def test_a_packer_that_was_killed_at_any_load_goes_on_where_it_was(
    tmp_path: Path, whole: dict[str, bytes | None], last: int
):
    log, out = tmp_path / "log", str(tmp_path / "out")
    with pytest.raises(Killed):
        pack(counted_stripes(log, last), RECIPE, out)
    assert loads(log) == last
    assert not Path(out, MANIFEST).exists()
    pack(counted_stripes(log), RECIPE, out)
    finished = min((last - 1) // 10, TASKS)
    assert loads(log) == 60 + 60 + PICTURES - 10 * finished
    assert content(out) == whole


@pytest.mark.parametrize("before", [True, False])
def test_a_packer_that_was_killed_at_any_upload_leaves_no_half_dataset(
    tmp_path: Path,
    whole: dict[str, bytes | None],
    monkeypatch: pytest.MonkeyPatch,
    before: bool,
):
    put, uploads = Directory.put, 6 + 2 * 6 + 2
    for last in range(2, uploads + 1, 3):
        calls = iter(range(1, 1000))

        def dying(self: Directory, path: Path, name: str) -> None:
            mortal = next(calls) == last  # noqa: B023
            if mortal and before:
                raise Killed
            put(self, path, name)
            if mortal:
                raise Killed

        out = str(tmp_path / str(last))
        with monkeypatch.context() as patch:
            patch.setattr(Directory, "put", dying)
            with pytest.raises(Killed):
                pack(stripes(), RECIPE, out)
        assert Path(out, MANIFEST).exists() == (last == uploads and not before)
        pack(stripes(), RECIPE, out, overwrite=Path(out, MANIFEST).exists())
        assert content(out) == whole


def test_a_packer_whose_process_was_killed_goes_on_where_it_was(
    tmp_path: Path, whole: dict[str, bytes | None]
):
    log, out = tmp_path / "log", str(tmp_path / "out")
    last = 60 + 25  # in the middle of the third shard
    tests = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, toy_packing.__file__, out, str(log), str(last)],
        env=os.environ | {"PYTHONPATH": f"{tests}:{tests.parent}", "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == -signal.SIGKILL
    assert loads(log) == last
    assert not Path(out, MANIFEST).exists()
    pack(counted_stripes(log), RECIPE, out)
    assert loads(log) == 60 + 60 + PICTURES - 60 - 20
    assert content(out) == whole


@pytest.fixture
def interrupted(tmp_path: Path) -> tuple[Path, str]:
    """The log and directory of a packer that has written three shards."""
    log, out = tmp_path / "log", str(tmp_path / "out")
    with pytest.raises(Killed):
        pack(counted_stripes(log, 60 + 31), RECIPE, out)
    loads(log)
    return log, out


def test_a_shard_that_is_gone_is_written_again(
    interrupted: tuple[Path, str], whole: dict[str, bytes | None]
):
    log, out = interrupted
    lost, spoiled, _ = sorted(Path(out).glob("*.tar"))
    lost.unlink()
    spoiled.write_bytes(b"half")
    pack(counted_stripes(log), RECIPE, out)
    assert loads(log) == 60 - 10 + PICTURES
    assert content(out) == whole


@pytest.mark.parametrize("note", ["", "[[null, ", "\0\0\0\0"])
def test_a_note_that_was_torn_counts_for_nothing(
    interrupted: tuple[Path, str], whole: dict[str, bytes | None], note: str
):
    log, out = interrupted
    for path in Path(out, NOTES).rglob("*.json"):
        path.write_text(note)
    pack(counted_stripes(log), RECIPE, out)
    assert loads(log) == 60 + 60 + PICTURES
    assert content(out) == whole


@pytest.mark.parametrize(
    "changes", [{"image_size": 16}, {"duplicates": "keep"}, {"quality": 90}, {"min_side": 2}]
)
def test_another_request_takes_nothing_from_an_interrupted_one_and_clears_it_away(
    interrupted: tuple[Path, str], tmp_path: Path, changes: dict[str, Any]
):
    log, out = interrupted
    recipe = Recipe(**(RECIPE.model_dump() | changes))
    pack(counted_stripes(log), recipe, out)
    assert loads(log) == 60 + 60 + PICTURES
    pack(stripes(), recipe, str(tmp_path / "fresh"))
    assert content(out) == content(str(tmp_path / "fresh"))


def test_a_changed_image_takes_nothing_from_an_interrupted_packer(interrupted: tuple[Path, str]):
    log, out = interrupted
    source = counted_stripes(log)
    records = [source.records[0]._replace(stamp="later"), *source.records[1:]]
    pack(replace(source, records=records), RECIPE, out)
    assert loads(log) == 60 + 60 + PICTURES


def test_what_could_not_be_read_is_tried_again_and_no_shard_of_the_rest_is_kept(
    tmp_path: Path, whole: dict[str, bytes | None]
):
    out, broken = str(tmp_path / "out"), {"stripes-005"}

    def flaky(record: Record) -> bytes:
        if record.key in broken:
            raise StorageError("the network is down")
        return load(record)

    def dying(function: Callable[[Any], Any], tasks: Iterable[Any], /) -> Iterator[Any]:
        for task in tasks:
            if task.name == "val-000001":
                raise Killed
            yield function(task)

    source = replace(stripes(), load=flaky)
    recipe = Recipe(examples_per_shard=10, max_unreadable=0.1)
    with pytest.raises(Killed):
        pack(source, recipe, out, dying)
    broken.clear()
    assert pack(source, recipe, out).rejected == {}
    pack(source, recipe, str(tmp_path / "fresh"))
    assert content(out) == content(str(tmp_path / "fresh"))
    tars = {name: shard for name, shard in content(out).items() if name.endswith(".tar")}
    assert tars.items() <= whole.items()


def test_too_many_unreadable_images_leave_nothing_behind_but_notes(tmp_path: Path):
    def load_nothing(record: Record) -> bytes:
        raise StorageError(f"cannot read {record.key}")

    with pytest.raises(DataError, match=r"60 of 60 images .* 'stripes-000' .cannot read stripes"):
        pack(replace(stripes(), load=load_nothing), RECIPE, str(tmp_path))
    assert Directory(str(tmp_path)).names() == [NOTES]


def test_an_image_that_changes_while_it_is_packed_is_an_error_in_one_line(tmp_path: Path):
    seen: set[str] = set()

    def changing(record: Record) -> bytes:
        if record.key == "stripes-007" and record.key in seen:
            return b"no longer an image"
        seen.add(record.key)
        return load(record)

    with pytest.raises(DataError, match=r"^image 'stripes-007' changed while it was packed: "):
        pack(replace(stripes(), load=changing), RECIPE, str(tmp_path))
    assert not (tmp_path / MANIFEST).exists()


def test_an_interrupted_packer_leaves_the_dataset_that_was_there(tmp_path: Path):
    out = str(tmp_path / "out")
    before = pack(stripes(), RECIPE, out)
    recipe = Recipe(image_size=16, examples_per_shard=10)
    shards = pack(stripes(), recipe, str(tmp_path / "other")).splits["train"]
    (tmp_path / "out" / shards[1].name / "in-the-way").mkdir(parents=True)
    with pytest.raises(StorageError, match=f"^cannot write {out}/{shards[1].name}: "):
        pack(stripes(), recipe, out, overwrite=True)
    with Dataset(out, "train", 8, PLENTY) as train:
        assert train.manifest == before
        assert len(train.read(0, len(train)).labels) == len(train)


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


def test_a_full_disk_is_one_line_and_leaves_no_dataset(tmp_path: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, hard))  # bytes: less than a shard takes
    try:
        with pytest.raises(StorageError, match=r"^cannot write .*: File too large$"):
            pack(stripes(), RECIPE, str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert Directory(str(tmp_path)).names() == [NOTES]
    pack(stripes(), RECIPE, str(tmp_path))
    assert read_manifest(str(tmp_path)).examples("train") == 40


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


def test_notes_hold_no_more_than_json(interrupted: tuple[Path, str]):
    _, out = interrupted
    notes = list(Path(out, NOTES).rglob("*.json"))
    assert len(notes) == 6 + 3
    for note in notes:
        json.loads(note.read_text())
