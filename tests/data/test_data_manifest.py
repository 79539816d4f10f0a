import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_dataset

from ray_diffusion.data.manifest import read_manifest
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


def test_the_fingerprint_hangs_on_every_field(tmp_path: Path):
    written = tiny_dataset.write(str(tmp_path), tiny_dataset.numbered([3, 2]))
    shard = replace(written.splits["train"][0], crc32=0)
    changed = [
        replace(written, image_size=5),
        replace(written, classes=("x", "b", "c")),
        replace(written, splits=written.splits | {"train": (shard,)}),
        replace(written, packer={"source": "elsewhere"}),
        written,
    ]
    assert len({manifest.fingerprint for manifest in changed}) == len(changed)


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


@pytest.mark.parametrize("changes", [{"classes": ["a", "b"]}, {"image_size": 8}, {"rejected": 0}])
def test_a_changed_manifest_is_refused(url: str, changes: dict[str, Any]):
    tiny_dataset.write(url, tiny_dataset.numbered([3]))
    edited(url, **changes)
    assert problem(url) == (f"{url}/manifest.json was changed: its fingerprint does not match")


def test_another_version_is_refused_by_number(url: str):
    tiny_dataset.write(url, tiny_dataset.numbered([3]))
    edited(url, version=99)
    assert problem(url) == (
        f"{url}/manifest.json has version 99, this program reads 1; pack the dataset again"
    )
