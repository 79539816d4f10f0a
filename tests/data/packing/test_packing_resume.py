"""The whole packer, interrupted: what it leaves behind and where it goes on."""

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

import pytest
import toy_packing
from toy_packing import RECIPE, TASKS, Killed, content, counted_stripes, stripes
from toy_source import load

from ray_diffusion.data.manifest import read_manifest
from ray_diffusion.data.packing.output import NOTES
from ray_diffusion.data.packing.pack import pack
from ray_diffusion.data.packing.recipe import Recipe
from ray_diffusion.data.packing.source import Record
from ray_diffusion.data.reader import Dataset
from ray_diffusion.errors import DataError, StorageError
from ray_diffusion.storage import MANIFEST, Directory

pytestmark = pytest.mark.usefixtures("_small_tasks")

PLENTY = 1 << 30  # bytes
PICTURES = 40  # of the contact sheet: all that there are to train on


def loads(log: Path) -> int:
    """How many images were loaded since the last time this was asked."""
    count = len(log.read_text().splitlines())
    log.unlink()
    return count


def test_a_request_that_was_fulfilled_is_not_done_again(tmp_path: Path):
    log, out = tmp_path / "log", str(tmp_path / "out")
    first = pack(counted_stripes(log), RECIPE, out)
    assert loads(log) == 60 + 60 + PICTURES
    assert pack(counted_stripes(log), RECIPE, out) == first
    assert not log.exists()


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


def test_notes_hold_no_more_than_json(interrupted: tuple[Path, str]):
    _, out = interrupted
    notes = list(Path(out, NOTES).rglob("*.json"))
    assert len(notes) == 6 + 3
    for note in notes:
        json.loads(note.read_text())
