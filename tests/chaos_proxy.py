"""An HTTP proxy whose faults can be switched while it runs, and are the same for a seed."""

import asyncio
import random
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

SLICE = 1 << 14  # bytes that are sent at a time where bandwidth is limited
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
REFUSAL = b"HTTP/1.1 %d Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
# Each connection serves one request: the end of the response is where the server closes it.
# The wait for a 100 is ended here, because the response is only passed on when it is whole.
NOT_PASSED_ON = re.compile(rb"(?i)(connection|expect): [^\r]*\r\n")
HOST = re.compile(rb"(?im)^(host: )[^\r]*")


@dataclass(frozen=True)
class Faults:
    """What goes wrong. The five shares exclude one another, so their sum is at most 1.

    Attributes:
        latency_s: Wait before each request is passed on.
        bytes_per_s: Bandwidth of a connection; 0 is without limit.
        reset: Share of responses in whose body the connection is reset.
        truncated: Likewise, closed as if all were well, but fewer bytes than announced have come.
        shortened: Share of bodies that are cut, and announced at their new length.
        flipped: Share of bodies with one wrong byte.
        unavailable: Share of requests that are not passed on, but answered with ``status``.
        status: The HTTP status of that answer.
        host: The Host header that all requests reach the server with; empty for the client's.
        only: What a request line must look like for the shares to count; all by default that read
            an object of a bucket.
    """

    latency_s: float = 0
    bytes_per_s: float = 0
    reset: float = 0
    truncated: float = 0
    shortened: float = 0
    flipped: float = 0
    unavailable: float = 0
    status: int = 503
    host: str = ""
    only: str = r"GET /[^/? ]+/[^? ]+ "


class ChaosProxy:
    """Passes HTTP on to a server of this machine; ``faults`` may be replaced at any time.

    Whether the n-th request of a kind fails hangs on the seed, its request line and n alone, so
    clients may send what they like at the same time.

    Args:
        upstream: Port of the server.
        seed: Of the faults.
    """

    def __init__(self, upstream: int, seed: int = 0) -> None:
        self.faults = Faults()
        self.met: Counter[str] = Counter()  # responses by fault; "none" are those left alone
        self.port = 0
        self._upstream, self._seed = upstream, seed
        self._seen: Counter[str] = Counter()
        self._clients: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        self.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Be reachable, at the same port as before."""
        self._run(self._listen())

    def stop(self) -> None:
        """Refuse connections, and reset those there are."""
        self._run(self._hang_up())

    def _run(self, task: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(task, self._loop).result()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _hang_up(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for client in self._clients:
            _reset(client)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            await self._exchange(head, reader, writer)
        except (OSError, asyncio.IncompleteReadError):  # either side has gone
            _reset(writer)
        finally:
            self._clients.remove(writer)
            writer.close()

    async def _exchange(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        request, _, headers = head.partition(b"\r\n")
        faults = self.faults
        fault, draw = self._drawn(request.decode("latin-1"), faults)
        self.met[fault] += 1
        await asyncio.sleep(faults.latency_s)
        if fault == "unavailable":
            response = REFUSAL % faults.status
        else:
            if b"100-continue" in headers:
                writer.write(CONTINUE)
            headers = b"Connection: close\r\n" + NOT_PASSED_ON.sub(b"", headers)
            if faults.host:
                headers = HOST.sub(b"\\1" + faults.host.encode(), headers)
            response = await self._response(request + b"\r\n" + headers, reader)
        await _answer(writer, response, fault, draw, faults.bytes_per_s)

    async def _response(self, head: bytes, body: asyncio.StreamReader) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        writer.write(head)
        sending = asyncio.create_task(_pass_on(body, writer))
        try:
            return await reader.read()
        finally:
            sending.cancel()
            writer.close()

    def _drawn(self, request: str, faults: Faults) -> tuple[str, random.Random]:
        """What this request meets, and where to draw the particulars from."""
        if not re.match(faults.only, request):
            return "none", random.Random()
        self._seen[request] += 1
        draw = random.Random(f"{self._seed} {request} {self._seen[request]}")
        at = draw.random()
        for name in ("reset", "truncated", "shortened", "flipped", "unavailable"):
            at -= getattr(faults, name)
            if at < 0:
                return name, draw
        return "none", draw


async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):  # whoever has gone is noticed where the response is awaited
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()


async def _answer(
    client: asyncio.StreamWriter,
    response: bytes,
    fault: str,
    draw: random.Random,
    bytes_per_s: float,
) -> None:
    head, _, body = response.partition(b"\r\n\r\n")
    at = draw.randrange(len(body)) if body else 0
    if fault == "flipped" and body:
        body = body[:at] + bytes([body[at] ^ 1 << draw.randrange(8)]) + body[at + 1 :]
    if fault in ("reset", "truncated", "shortened"):
        body = body[:at]
    if fault == "shortened":
        head = re.sub(rb"(?i)(content-length: )\d+", rb"\g<1>%d" % at, head)
    client.write(head + b"\r\n\r\n")
    for start in range(0, len(body), SLICE):
        client.write(body[start : start + SLICE])
        await client.drain()
        if bytes_per_s:
            await asyncio.sleep(SLICE / bytes_per_s)
    if fault == "reset":
        _reset(client)


def _reset(client: asyncio.StreamWriter) -> None:
    with suppress(OSError):  # closed already
        connection = client.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    client.transport.abort()
