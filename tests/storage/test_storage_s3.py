"""The same directories in an object store: a real S3 client against a server on this machine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from chaos_proxy import ChaosProxy

from ray_diffusion.config.schema import Data
from ray_diffusion.data.manifest import read_manifest
from ray_diffusion.data.training_set import open_training_set
from ray_diffusion.errors import RayDiffusionError, StorageError
from ray_diffusion.storage import Directory

pytest_plugins = ["object_store"]

# botocore calls what newer Pythons deprecate.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_published_directory_comes_back_whole(bucket: str, tmp_path: Path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "weights").write_bytes(bytes(range(256)))
    run = Directory(f"{bucket}/run")
    run.publish(tmp_path / "one", "checkpoint")
    assert run.names() == ["checkpoint"]
    assert run.fetch("checkpoint", tmp_path / "back") is None
    assert (tmp_path / "back" / "weights").read_bytes() == bytes(range(256))
    run.write("checkpoint/weights", b"damaged")
    assert run.fetch("checkpoint", tmp_path / "again") == "has a damaged weights"
    run.remove("checkpoint")
    assert run.names() == []


def test_files_are_listed_with_their_size_and_a_stamp_that_changes_with_them(bucket: str):
    directory = Directory(f"{bucket}/run")
    for name in ("b/2.bin", "b/1.bin", "a.bin"):
        directory.write(name, name * 2)
    first = list(directory.walk())
    assert [(file.name, file.bytes) for file in first] == [
        ("a.bin", 10),
        ("b/1.bin", 14),
        ("b/2.bin", 14),
    ]
    assert list(directory.walk()) == first
    directory.write("b/1.bin", "B/1.BIN" * 2)
    assert [old.name for old, new in zip(first, directory.walk(), strict=True) if old != new] == [
        "b/1.bin"
    ]


def test_a_part_of_a_file_is_read_alone(bucket: str):
    directory = Directory(f"{bucket}/run")
    directory.write("a", bytes(range(100)))
    assert directory.read_range("a", 7, 5) == bytes(range(7, 12))
    with pytest.raises(StorageError, match="cannot read s3://bucket/run/b: "):
        directory.read_range("b", 7, 5)


def test_a_file_is_brought_to_this_machine_or_said_to_be_missing(bucket: str, tmp_path: Path):
    directory = Directory(f"{bucket}/run")
    directory.write("a", b"content")
    assert directory.get("a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"content"
    assert not directory.get("b", tmp_path / "b")
    with pytest.raises(StorageError, match="No such file or directory"):
        directory.get("a", tmp_path / "nowhere" / "a")


ACTIONS: dict[str, Callable[[str], object]] = {
    "read {}/a": lambda url: Directory(url).read("a"),
    "read {}/b": lambda url: Directory(url).read_range("b", 0, 1),
    "list {}": lambda url: Directory(url).names(),
    "list {}/sub": lambda url: list((Directory(url) / "sub").walk()),
    "write {}/.probe-": lambda url: Directory(url).check_writable(),
    "read {}/data/manifest.json": lambda url: read_manifest(f"{url}/data"),
    "read {}/set/manifest.json": lambda url: open_training_set(Data(dataset_url=f"{url}/set")),
}


def problem(do: Callable[[str], object], url: str) -> str:
    """What is said where something cannot be done."""
    with pytest.raises(RayDiffusionError) as error:
        do(url)
    assert error.value.exit_code == 3
    assert "\n" not in str(error.value)
    return str(error.value)


def reasons(url: str) -> set[str]:
    """Why nothing at all can be done."""
    found = set()
    for action, do in ACTIONS.items():
        what, reason = problem(do, url).split(": ", 1)
        assert what.startswith(f"cannot {action.format(url)}")
        found.add(reason.partition(' "http')[0])
    return found


def test_an_endpoint_that_cannot_be_reached_is_one_line(bucket: str, proxy: ChaosProxy):
    proxy.stop()
    assert reasons(bucket) == {"Could not connect to the endpoint URL:"}


@pytest.mark.usefixtures("strict")
def test_unknown_credentials_are_one_line(bucket: str):
    unknown = "The AWS Access Key Id you provided does not exist in our records."
    assert reasons(bucket) == {unknown, "Forbidden"}  # a HEAD's answer has no room for words


def test_missing_credentials_are_one_line(bucket: str, monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert reasons(bucket) == {"Unable to locate credentials"}


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_does_not_exist_is_one_line_and_is_not_made():
    url = "s3://nothing-here/run"
    for _ in range(2):
        line = problem(lambda url: Directory(url).check_writable(), url)
        assert line.startswith(f"cannot write {url}/.probe-")
        assert line.endswith(": The specified bucket does not exist")
    for do in (read_manifest, lambda url: open_training_set(Data(dataset_url=url))):
        line = f"cannot read {url}/manifest.json: The specified bucket does not exist"
        assert problem(do, url) == line
    line = f"cannot list {url}: The specified bucket does not exist"
    assert problem(lambda url: Directory(url).names(), url) == line


def test_the_users_own_client_settings_come_first(bucket: str, monkeypatch: pytest.MonkeyPatch):
    def settings() -> dict[str, Any]:
        return Directory(bucket)._fs.config_kwargs

    ours = {"retries": {"total_max_attempts": 3}, "connect_timeout": 3, "max_pool_connections": 32}
    assert settings() == ours
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "7")
    assert settings()["retries"] == {"total_max_attempts": 7}
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"connect_timeout": 60}})
    assert settings() == ours | {"retries": {"total_max_attempts": 7}, "connect_timeout": 60}
