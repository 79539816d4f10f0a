"""An append-only file of lines that no fault of the disk keeps its writer from going on."""

import logging
import os
from pathlib import Path

PENDING_LINES = 100_000
"""Lines kept in memory while the disk is full, about 20 MB."""

WRITE_LINES = 1000
"""Lines in one write: bounds what a step pays for trying again while the disk is full."""

logger = logging.getLogger(__name__)


class Journal:
    """Lines on disk, or in memory until the disk takes them.

    After it is open, no fault of the disk is raised but by `flush`. Lines that cannot be written
    wait in memory for the next `append`; beyond `PENDING_LINES` new ones are refused.

    Args:
        path: The file; a last line without its line feed is cut off, as a killed writer leaves it.

    Attributes:
        path: The file.
        size: Bytes of whole lines on disk.
        errors: How often the disk refused something.
        lost: Lines refused because memory for waiting ones ran out.

    Raises:
        OSError: If the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.errors = 0
        self.lost = 0
        self._pending: list[bytes] = []
        self._torn = False  # a write stopped halfway: cut the file back before the next
        self._file = path.open("ab", buffering=0)
        self.size = _cut_torn_line(path)

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._file.closed

    @property
    def waiting(self) -> bool:
        """Whether lines wait in memory."""
        return bool(self._pending)

    def append(self, line: bytes, durable: bool = False) -> bool:
        """Take a line, on disk if possible.

        Args:
            line: With its line feed.
            durable: Whether to put it at once where a power cut cannot take it, which costs
                milliseconds; a line alone costs 20 microseconds.

        Returns:
            False if there is no room for it anywhere.
        """
        if len(self._pending) >= PENDING_LINES:
            self._drain()
        if len(self._pending) >= PENDING_LINES:
            self.lost += 1
            return False
        self._pending.append(line)
        self._drain()
        if durable:
            self._fdatasync()
        return True

    def flush(self) -> None:
        """Put what is on disk where a power cut cannot take it.

        Raises:
            OSError: If the disk fails.
            ValueError: If it was closed.
        """
        os.fdatasync(self._file.fileno())

    def sync(self) -> None:
        """Put all lines where a power cut cannot take them, as far as the disk lets us."""
        self._drain()
        self._fdatasync()

    def close(self) -> None:
        """Make it durable and let go of it."""
        self.sync()
        self._file.close()

    def _drain(self) -> None:
        """Write what waits in memory; on a fault it stays there for the next time."""
        while self._pending:
            lines = self._pending[:WRITE_LINES]
            data = b"".join(lines)
            try:
                if self._torn:
                    self._file.truncate(self.size)
                self._torn = True
                if self._file.write(data) != len(data):
                    raise OSError("the disk took only a part")
            except OSError as error:
                if not self.errors:
                    logger.warning("cannot write %s (%s): metrics wait in memory", self.path, error)
                self.errors += 1
                return
            self._torn = False
            self.size += len(data)
            del self._pending[: len(lines)]

    def _fdatasync(self) -> None:
        try:
            self.flush()
        except OSError:
            self.errors += 1


def _cut_torn_line(path: Path) -> int:
    """Cut off a last line without its line feed; the size then."""
    block = 1 << 16
    with path.open("r+b") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - block)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end != size:
            file.truncate(end)
    return end
