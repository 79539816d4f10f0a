import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_dataset

from ray_diffusion.data import manifest
from ray_diffusion.data.manifest import VERSION, read_manifest
from ray_diffusion.errors import DataError
from ray_diffusion.storage import MANIFEST, Directory


def problem(url: str) -> str:
    with pytest.raises(DataError) as error:
        read_manifest(url)
    assert "\n" not in str(error.value)
    return str(error.value)


def edited(url: str, **changes: Any) -> None:
    """Change what a dataset's manifest says, and nothing else."""
    directory = Directory(url)
    content = directory.read(MANIFEST)
    assert content is not None
    directory.write(MANIFEST, json.dumps(json.loads(content) | changes))


def test_what_was_written_is_read(url: str):
    written = tiny_dataset.write(url, tiny_dataset.numbered([3, 2]))
    assert read_manifest(url) == written
    assert written.examples("train") == 5
    assert written.examples("test") == 0


def test_the_fingerprint_hangs_on_all_that_training_sees(tmp_path: Path):
    written = tiny_dataset.write(str(tmp_path), tiny_dataset.numbered([3, 2]))
    shard = replace(written.splits["train"][0], crc32=0)
    changed = [
        replace(written, image_size=5),
        replace(written, classes=("x", "b", "c")),
        replace(written, splits=written.splits | {"train": (shard,)}),
        written,
    ]
    assert len({manifest.fingerprint for manifest in changed}) == len(changed)


def test_the_fingerprint_does_not_tell_where_images_came_from(tmp_path: Path):
    written = tiny_dataset.write(str(tmp_path), tiny_dataset.numbered([3, 2]))
    moved = replace(written, packer={"source": "elsewhere"}, rejected={"duplicate": 3})
    assert moved.fingerprint == written.fingerprint


def test_a_place_without_a_manifest_is_no_dataset(url: str):
    Directory(url).write("train-000000.tar", b"")
    assert problem(url).startswith(f"{url} is not a dataset: it has no manifest.json; make one")


def test_a_place_that_is_not_there_or_a_file_is_no_dataset(tmp_path: Path):
    (tmp_path / "plain").write_text("")
    for path in (tmp_path / "nowhere", tmp_path / "plain"):
        assert problem(str(path)).startswith(f"{path} is not a dataset: it has no manifest.json")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '{"version": 1}', "\x80"])
def test_a_damaged_manifest_is_named(url: str, content: str):
    Directory(url).write(MANIFEST, content.encode("latin-1"))
    assert problem(url).startswith(f"{url}/manifest.json is damaged: ")


@pytest.mark.parametrize(
    "changes",
    [{"splits": {"train": [{"name": "a.tar"}]}}, {"splits": [1]}, {"extra": 1}, {"classes": None}],
)
def test_a_manifest_of_another_shape_is_damaged(url: str, changes: dict[str, Any]):
    tiny_dataset.write(url, tiny_dataset.numbered([3]))
    edited(url, **changes)
    assert problem(url).startswith(f"{url}/manifest.json is damaged: ")


@pytest.mark.parametrize("changes", [{"classes": ["a", "b"]}, {"image_size": 8}, {"channels": 3}])
def test_a_changed_manifest_is_refused(url: str, changes: dict[str, Any]):
    tiny_dataset.write(url, tiny_dataset.numbered([3]))
    edited(url, **changes)
    assert problem(url) == (f"{url}/manifest.json was changed: its fingerprint does not match")


def test_another_version_is_refused_by_number(url: str):
    tiny_dataset.write(url, tiny_dataset.numbered([3]))
    edited(url, version=99)
    assert problem(url) == (
        f"{url}/manifest.json has version 99, this program reads {VERSION}; pack the dataset again"
    )


@pytest.fixture
def table(url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the table of a dataset that has so many shards that it needs one."""
    monkeypatch.setattr(manifest, "TABLE_FROM", 3)
    tiny_dataset.write(url, tiny_dataset.numbered([3, 2]))  # and one of its val split
    (name,) = (name for name in Directory(url).names() if name.endswith(".parquet"))
    return name


def test_many_shards_are_listed_in_a_table_and_read_back(url: str, table: str):
    found = read_manifest(url)
    assert table == f"shards-{found.fingerprint}.parquet"
    assert [shard.examples for shard in found.splits["train"]] == [3, 2]
    assert found == tiny_dataset.write(url, tiny_dataset.numbered([3, 2]))


def test_few_shards_need_no_table(url: str):
    tiny_dataset.write(url, tiny_dataset.numbered([3, 2]))
    assert not [name for name in Directory(url).names() if name.endswith(".parquet")]


def test_a_missing_table_is_named(url: str, table: str):
    Directory(url).remove(table)
    assert problem(url) == f"{url} lacks {table}, which its manifest.json names"


def test_a_damaged_table_is_one_line(url: str, table: str):
    content = Directory(url).read(table)
    assert content is not None
    for damaged in (b"", b"no table", content[:-20], content[:100]):
        Directory(url).write(table, damaged)
        assert problem(url).startswith(f"{url}/manifest.json is damaged: ")


def test_another_table_does_not_match(url: str, table: str):
    whole = read_manifest(url)
    shard = replace(whole.splits["train"][0], crc32=0)
    other = replace(whole, splits=whole.splits | {"train": (shard, *whole.splits["train"][1:])})
    other.write(Directory(f"{url}/other"))
    content = Directory(f"{url}/other").read(f"shards-{other.fingerprint}.parquet")
    assert content is not None
    Directory(url).write(table, content)
    assert problem(url) == f"{url}/manifest.json was changed: its fingerprint does not match"
