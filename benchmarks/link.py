"""An object store at the end of a slow link: the files of a directory, read by S3's protocol.

It paces its answers rather than the bytes of another server, so that it costs next to no time of a
processor, of which a store that is far away would take none either::

    python benchmarks/link.py DIRECTORY SECONDS_PER_REQUEST BYTES_PER_SECOND

prints the port of this machine at which ``s3://BUCKET/NAME`` is ``DIRECTORY/BUCKET/NAME``, and
serves until it is killed.
"""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

SLICE = 1 << 17  # bytes that are sent at a time
HEADERS = (
    "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
    'ETag: "constant"\r\n'
    "Content-Type: application/octet-stream\r\n"
)


class Link(NamedTuple):
    """What is between the store and its readers.

    Attributes:
        seconds_per_request: Wait before each answer.
        bytes_per_s: Bandwidth of each connection.
    """

    seconds_per_request: float
    bytes_per_s: float


@contextmanager
def slow_store(directory: Path, link: Link) -> Iterator[str]:
    """Serve a directory from another process; gives the URL at which clients find it."""
    command = [sys.executable, __file__, str(directory), *map(str, link)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.kill()


async def serve(directory: Path, link: Link) -> None:
    """Print the port, then answer requests for ever."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):  # the client has gone
            while True:  # a connection serves one request after the other
                request = await reader.readuntil(b"\r\n\r\n")
                await asyncio.sleep(link.seconds_per_request)
                await answer(request.decode("latin-1"), directory, link.bytes_per_s, writer)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1")
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def answer(
    request: str, directory: Path, bytes_per_s: float, writer: asyncio.StreamWriter
) -> None:
    method, target, _ = request.split(" ", 2)
    path = directory / target.partition("?")[0].lstrip("/")
    if method not in ("GET", "HEAD") or not path.is_file():
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        return
    content, status = memoryview(path.read_bytes()), "200 OK"
    asked = re.search(r"(?i)\r\nrange: *bytes=(\d+)-(\d*)", request)
    if asked:
        size, first, last = len(content), int(asked[1]), asked[2]
        content, status = content[first : int(last) + 1 if last else size], "206 Partial Content"
        status += f"\r\nContent-Range: bytes {first}-{first + len(content) - 1}/{size}"
    head = f"HTTP/1.1 {status}\r\n{HEADERS}Content-Length: {len(content)}\r\n\r\n"
    writer.write(head.encode())
    if method == "HEAD":
        return
    clock = asyncio.get_running_loop()
    started = clock.time()
    for at in range(0, len(content), SLICE):
        writer.write(content[at : at + SLICE])
        await writer.drain()
        sent = min(at + SLICE, len(content))
        await asyncio.sleep(started + sent / bytes_per_s - clock.time())


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), Link(*map(float, sys.argv[2:]))))
