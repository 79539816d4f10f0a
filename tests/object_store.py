"""Fixtures: an S3 server on this machine, reached directly or through a proxy with faults.

Modules that use them say ``pytest_plugins = ["object_store"]``.
"""

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import fsspec.config
import pytest
from chaos_proxy import ChaosProxy

SERVER = """
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
input()  # ends where the tests do, however they end
server.stop()
"""


@pytest.fixture(scope="session")
def s3_server() -> Iterator[int]:
    """The server's port."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout is not None
        port = server.stdout.readline()
        assert port, "the S3 server ended"
        yield int(port)
        server.kill()


@pytest.fixture
def bucket(s3_server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",  # where credentials would be looked for at last
    }.items():
        monkeypatch.setenv(name, value)
    reach(s3_server, monkeypatch)
    ask(s3_server, "POST", "moto-api/reset")
    ask(s3_server, "PUT", "bucket")
    yield "s3://bucket"
    forget_clients()


@pytest.fixture
def restored_options(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No storage options; those that a test sets are gone when it ends."""
    monkeypatch.setattr(fsspec.config, "conf", {})
    before = os.environ.copy()
    yield
    for variable in os.environ.keys() - before.keys():
        del os.environ[variable]
    os.environ.update(before)


@pytest.fixture
def strict(s3_server: int, bucket: str) -> Iterator[None]:
    """The server wants credentials that it knows, of which there are none."""
    ask(s3_server, "POST", "moto-api/reset-auth", b"0")
    yield
    ask(s3_server, "POST", "moto-api/reset-auth", b"inf")


@pytest.fixture
def proxy(s3_server: int, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ChaosProxy]:
    """What now stands before the bucket; botocore does not try again, which takes seconds."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with ChaosProxy(s3_server) as proxy:
        reach(proxy.port, monkeypatch)
        yield proxy


def reach(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have S3 clients of this process, and of those it starts, use a port of this machine."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    forget_clients()


def forget_clients() -> None:
    """Have new clients made, which look at the environment again."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


def ask(port: int, method: str, path: str, body: bytes = b"") -> None:
    """Send the server a request as no client would."""
    url, kind = f"http://127.0.0.1:{port}/{path}", {"Content-Type": "application/octet-stream"}
    urllib.request.urlopen(urllib.request.Request(url, body, kind, method=method)).close()
