"""Finds a worker that hangs, and keeps what it was doing."""

import faulthandler
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

LOOKS = 10  # in a timeout
TELLING_S = 60.0  # at most: what is told may go where the process hangs


@contextmanager
def watched(timeout_s: float, on_stall: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Watch the calling process for standstill; one that stands still ends.

    A worker that hangs keeps all others waiting for it, in a sum that never comes. So each of
    them ends here after the same time, whoever is to blame; Ray starts them again, from the last
    checkpoint, and takes the process that does not even run its watch away.

    Args:
        timeout_s: Seconds without a beat.
        on_stall: Told the stacks of all threads of the process, before it ends. May fail or hang.

    Yields:
        The beat, to be called at each step.
    """
    beat_at, ended = time.monotonic(), threading.Event()

    def beat() -> None:
        nonlocal beat_at
        beat_at = time.monotonic()

    def watch() -> None:
        while not ended.wait(timeout_s / LOOKS):
            if time.monotonic() - beat_at > timeout_s:
                telling = threading.Thread(target=on_stall, args=(_stacks(),), daemon=True)
                telling.start()
                telling.join(TELLING_S)
                os._exit(1)  # no exception would reach a thread that waits for a sum

    thread = threading.Thread(target=watch, name="stall", daemon=True)
    thread.start()
    try:
        yield beat
    finally:
        ended.set()
        thread.join()


def _stacks() -> str:
    file: TextIO
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()
