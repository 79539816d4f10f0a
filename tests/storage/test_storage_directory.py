import errno
import json
import os
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from ray_diffusion.errors import StorageError
from ray_diffusion.storage import (
    MANIFEST,
    Directory,
    absolute,
    cache_dir,
    damage,
    is_local,
    make_cache_dir,
    seal,
)

CONTENT = {"weights.bin": b"\x00\x01" * 500, "state.json": b"{}"}


class SmallFileSystem(MemoryFileSystem):
    """A store that is full after ``room`` files."""

    protocol = "small"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    room: ClassVar[int] = 0

    def put_file(self, lpath: str, rpath: str, **kwargs: Any) -> None:
        if SmallFileSystem.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        SmallFileSystem.room -= 1
        super().put_file(lpath, rpath, **kwargs)


fsspec.register_implementation("small", SmallFileSystem, clobber=True)


@pytest.fixture(params=["path", "file", "memory"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Directory]:
    """An empty directory that does not exist yet, in each kind of storage."""
    if request.param == "memory":
        yield Directory(f"memory://storage-tests/{tmp_path.name}")
        fsspec.filesystem("memory").rm("/storage-tests", recursive=True)
    else:
        yield Directory(f"{'file://' if request.param == 'file' else ''}{tmp_path}/a/b")


@pytest.fixture
def local(tmp_path: Path) -> Path:
    path = tmp_path / "local"
    path.mkdir()
    for name, content in CONTENT.items():
        (path / name).write_bytes(content)
    return path


def one_line(error: pytest.ExceptionInfo[StorageError]) -> str:
    line = str(error.value)
    assert "\n" not in line
    return line


@pytest.fixture
def plain_file(tmp_path: Path) -> Path:
    path = tmp_path / "plain"
    path.write_text("I am no directory")
    return path


def test_a_path_is_made_absolute_and_a_url_is_left_alone(monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert absolute("runs/a") == f"{tmp_path}/runs/a"
    assert absolute("~/runs") == "/home/someone/runs"
    assert absolute("s3://bucket/runs") == "s3://bucket/runs"


def test_a_file_url_is_a_path():
    assert absolute("file:///data/digits") == "/data/digits"
    assert is_local(absolute("file:///data/digits"))


def test_the_cache_is_where_xdg_says(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "ray_diffusion"
    assert list(tmp_path.iterdir()) == []
    assert make_cache_dir("shards").is_dir()
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_dir() == Path("~/.cache/ray_diffusion").expanduser()


def test_a_cache_that_cannot_be_made_says_what_to_set(monkeypatch, plain_file: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(plain_file))
    with pytest.raises(StorageError) as error:
        make_cache_dir("shards")
    assert one_line(error) == (
        "cannot make the cache directory (set XDG_CACHE_HOME) "
        f"{plain_file}/ray_diffusion/shards: Not a directory"
    )


def test_a_sealed_directory_is_whole(local: Path):
    seal(local)
    assert damage(local) is None
    assert set(json.loads((local / MANIFEST).read_text())["files"]) == set(CONTENT)


def test_sealing_again_does_not_list_the_seal(local: Path):
    seal(local)
    first = (local / MANIFEST).read_bytes()
    seal(local)
    assert (local / MANIFEST).read_bytes() == first


def test_an_unsealed_directory_has_no_manifest(local: Path):
    assert damage(local) == "has no manifest.json"


@pytest.mark.parametrize(
    "manifest",
    [
        "",
        '{"version": 1, "files": {"a',
        "[]",
        "{}",
        '{"files": []}',
        '{"files": null}',
        '{"files": {"../outside": {}}}',
        '{"files": {"/etc/hostname": {}}}',
        "\udcff",
    ],
)
def test_a_damaged_manifest_is_named_in_place_and_from_storage(
    local: Path, tmp_path: Path, manifest: str
):
    (local / MANIFEST).write_bytes(manifest.encode(errors="surrogateescape"))
    assert damage(local) == "has a damaged manifest.json"
    assert Directory(str(local)).fetch("", tmp_path / "into") == "has a damaged manifest.json"
    assert sorted(p.name for p in (tmp_path / "into").iterdir()) == [MANIFEST]


def test_a_missing_a_changed_and_a_shortened_file_are_named(local: Path):
    seal(local)
    weights = local / "weights.bin"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"\xff")
    assert damage(local) == "has a damaged weights.bin"
    weights.write_bytes(whole[:-1])
    assert damage(local) == "has a damaged weights.bin"
    weights.unlink()
    assert damage(local) == "lacks weights.bin"


def test_what_was_written_is_read(directory: Directory):
    assert directory.names() == []
    assert directory.read("a.txt") is None
    directory.write("a.txt", "text")
    directory.write("sub/b.bin", b"\x00")
    assert directory.read("a.txt") == b"text"
    assert (directory / "sub").read("b.bin") == b"\x00"
    assert directory.names() == ["a.txt", "sub"]


def test_writing_replaces_and_leaves_nothing_else(directory: Directory):
    directory.write("a.txt", "a long text")
    directory.write("a.txt", "short")
    assert directory.read("a.txt") == b"short"
    assert directory.names() == ["a.txt"]


def test_removing_takes_files_and_directories_and_does_not_mind_what_is_not_there(
    directory: Directory,
):
    directory.remove("never")
    directory.write("a.txt", "a")
    directory.write("keep.txt", "k")
    directory.write("sub/b.txt", "b")
    directory.remove("a.txt")
    directory.remove("sub")
    directory.remove("sub")
    assert directory.names() == ["keep.txt"]


def test_all_files_are_listed_by_name_with_their_size(directory: Directory):
    assert list(directory.walk()) == []
    for name in ("b/c/2.bin", "b/10.bin", "b/1.bin", "a.bin"):
        directory.write(name, name)
    found = [(file.name, file.bytes) for file in directory.walk()]
    assert found == [("a.bin", 5), ("b/1.bin", 7), ("b/10.bin", 8), ("b/c/2.bin", 9)]
    assert [file.name for file in (directory / "b").walk()] == ["1.bin", "10.bin", "c/2.bin"]


def test_the_stamp_of_a_changed_file_changes_and_no_other(directory: Directory):
    directory.write("a", "1")
    directory.write("b", "1")
    if (local := directory.local_path()) is not None:
        os.utime(local / "a", (0, 0))  # lest two writes fall into one tick of the clock
    before = {file.name: file for file in directory.walk()}
    assert {file.name: file for file in directory.walk()} == before
    directory.write("a", "2")  # of the same size
    after = {file.name: file for file in directory.walk()}
    assert after["a"].stamp != before["a"].stamp
    assert after["b"] == before["b"]


@pytest.mark.parametrize(("offset", "size"), [(0, 100), (7, 5), (99, 1), (0, 1), (50, 50)])
def test_a_part_of_a_file_is_read(directory: Directory, offset: int, size: int):
    content = bytes(range(100))
    directory.write("a", content)
    assert directory.read_range("a", offset, size) == content[offset : offset + size]


def test_a_part_of_a_file_that_is_not_there_is_one_line(directory: Directory):
    directory.write("b", "content")
    with pytest.raises(StorageError) as error:
        directory.read_range("a", 0, 1)
    assert one_line(error).startswith(f"cannot read {directory.url}/a: ")


def test_a_file_is_brought_over_another_or_said_to_be_missing(directory: Directory, tmp_path: Path):
    path = tmp_path / "here"
    path.write_text("something that was here before and is longer")
    assert not directory.get("a", path)
    directory.write("a", "content")
    assert directory.get("a", path)
    assert path.read_text() == "content"


def test_a_file_that_cannot_be_put_here_is_not_said_to_be_missing_there(
    directory: Directory, plain_file: Path
):
    directory.write("a", "content")
    with pytest.raises(StorageError) as error:
        directory.get("a", plain_file / "a")
    assert one_line(error).startswith(f"cannot read {directory.url}/a: ")


def test_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path):
    run = Directory(str(tmp_path))
    contents = [str(i) * 1000 for i in range(8)]
    with ThreadPoolExecutor(len(contents)) as pool:
        for _ in pool.map(partial(run.write, "a.txt"), contents * 20):
            pass
    assert (run.read("a.txt") or b"").decode() in contents
    assert run.names() == ["a.txt"]


def test_what_is_published_is_fetched_whole(directory: Directory, local: Path, tmp_path: Path):
    directory.publish(local, "checkpoint-1")
    assert directory.fetch("checkpoint-1", tmp_path / "into") is None
    assert {name: (tmp_path / "into" / name).read_bytes() for name in CONTENT} == CONTENT


def test_publishing_overwrites_a_leftover_of_that_name(
    directory: Directory, local: Path, tmp_path: Path
):
    directory.write("model/leftover.bin", "from an interrupted writer")
    directory.publish(local, "model")
    assert (directory / "model").names() == sorted([*CONTENT, MANIFEST])
    assert directory.fetch("model", tmp_path / "into") is None


def test_a_file_lost_or_changed_in_storage_is_named(
    directory: Directory, local: Path, tmp_path: Path
):
    directory.publish(local, "model")
    directory.write("model/state.json", "{ }")
    assert directory.fetch("model", tmp_path / "1") == "has a damaged state.json"
    directory.remove("model/state.json")
    assert directory.fetch("model", tmp_path / "2") == "lacks state.json"
    directory.remove("model")
    assert directory.fetch("model", tmp_path / "3") == "has no manifest.json"


@pytest.mark.parametrize("room", range(len(CONTENT) + 1))
def test_an_interrupted_publish_is_no_directory(local: Path, tmp_path: Path, room: int):
    run = Directory(f"small://{tmp_path.name}")
    SmallFileSystem.room = 100
    run.publish(local, "checkpoint-1")
    SmallFileSystem.room = room
    with pytest.raises(StorageError, match="No space left on device"):
        run.publish(local, "checkpoint-1")
    assert run.fetch("checkpoint-1", tmp_path / "into") == "has no manifest.json"

    SmallFileSystem.room = 100
    run.publish(local, "checkpoint-1")
    assert run.fetch("checkpoint-1", tmp_path / "into") is None


def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path):
    run = Directory(f"small://{tmp_path.name}")
    SmallFileSystem.room = 1
    run.write("summary.json", "old")
    with pytest.raises(StorageError) as error:
        run.write("summary.json", "new")
    assert one_line(error) == f"cannot write {run.url}/summary.json: No space left on device"
    assert run.read("summary.json") == b"old"


def test_a_local_write_that_fails_leaves_nothing_behind(tmp_path: Path):
    (tmp_path / "summary.json" / "in-the-way").mkdir(parents=True)
    with pytest.raises(StorageError):
        Directory(str(tmp_path)).write("summary.json", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_a_reader_with_the_file_open_never_sees_a_new_half(tmp_path: Path):
    run = Directory(str(tmp_path))
    run.write("a.txt", "old content")
    with (tmp_path / "a.txt").open() as reader:
        assert reader.read(3) == "old"
        run.write("a.txt", "new")
        assert reader.read() == " content"


@pytest.mark.parametrize("check", ["write", "check_writable"])
def test_an_unwritable_directory_is_one_line(plain_file: Path, check: str):
    run = Directory(f"{plain_file}/runs")
    with pytest.raises(StorageError, match=f"cannot write {plain_file}/runs/.*: Not a directory"):
        run.check_writable() if check == "check_writable" else run.write("a", "")
    assert plain_file.read_text() == "I am no directory"


def test_a_store_that_refuses_is_one_line_of_its_own_words():
    with pytest.raises(StorageError) as error:
        Directory("/proc/nothing/here").write("a", b"")
    assert one_line(error).startswith("cannot write /proc/nothing/here/a: ")


def test_checking_writability_leaves_no_trace(directory: Directory):
    directory.check_writable()
    assert directory.names() == []
    directory.write("a.txt", "a")
    directory.check_writable()
    assert directory.names() == ["a.txt"]


def test_checking_writability_keeps_what_was_there_and_removes_what_was_not(tmp_path: Path):
    empty = tmp_path / "empty"
    empty.mkdir()
    Directory(str(empty)).check_writable()
    Directory(str(tmp_path / "runs" / "digits")).check_writable()
    assert list(tmp_path.iterdir()) == [empty]


def test_an_unknown_protocol_is_named():
    with pytest.raises(StorageError) as error:
        Directory("s4://bucket/runs")
    assert one_line(error) == "cannot use s4://bucket/runs: Protocol not known: s4"


@pytest.mark.parametrize(
    ("url", "package", "protocol"),
    [
        ("s3://b/runs", "s3fs", "s3"),
        ("gs://b/runs", "gcsfs", "gs"),
        ("abfs://b/runs", "adlfs", "abfs"),
    ],
)
def test_a_storage_whose_client_is_not_installed_names_the_package(
    monkeypatch: pytest.MonkeyPatch, url: str, package: str, protocol: str
):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, protocol, raising=False)
    with pytest.raises(StorageError) as error:
        Directory(url)
    assert one_line(error).startswith(f"cannot use {url}: ")
    assert re.search(f"nstall {package} to access", one_line(error))
