"""The same directories in an object store: a real S3 client against a server on this machine."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_diffusion.data.pack import pack
from ray_diffusion.data.reader import Dataset
from ray_diffusion.errors import StorageError
from ray_diffusion.storage import Directory

SERVER = "from moto.server import main; main()"

# botocore and moto call what newer Pythons deprecate.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    patch = pytest.MonkeyPatch()
    try:
        assert server.stderr is not None
        while "Running on" not in (line := server.stderr.readline()):
            assert line, "the S3 server ended"
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
        }.items():
            patch.setenv(name, value)
        import s3fs

        s3fs.S3FileSystem().mkdir("bucket")
        yield "s3://bucket"
    finally:
        patch.undo()
        server.kill()
        server.communicate()


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


def test_a_dataset_in_a_bucket_reads_like_one_on_disk(bucket: str, tmp_path: Path):
    pack("digits", f"{bucket}/digits", 8)
    pack("digits", str(tmp_path / "digits"), 8)
    remote, local = (
        Dataset(url, "val", 8, 2**30) for url in (f"{bucket}/digits", str(tmp_path / "digits"))
    )
    assert remote.manifest == local.manifest
    assert remote.read(0, 50).images.equal(local.read(0, 50).images)
    remote.close()
    local.close()


def test_a_bucket_that_does_not_exist_is_one_line_and_is_not_made(bucket: str):
    with pytest.raises(StorageError, match="cannot write s3://nothing-here/run"):
        Directory("s3://nothing-here/run").check_writable()
