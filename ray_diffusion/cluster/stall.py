"""Finds a worker that hangs, and keeps what it was doing."""

import faulthandler
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median_low
from typing import TextIO

USUAL_STEPS = 5  # a step may take as long as so many of them, whatever the timeout
REMEMBERED = 31  # steps, of which the median is the usual one: few pauses are among them
IN_A_PAUSE = 3  # times the timeout
# After the first worker's pause the others are still waiting for it in their next step, of which
# a GPU tells its host up to two beats later.
PAUSED_BEATS = 3
LOOKS = 10  # in a timeout
TELLING_S = 60.0  # at most: what is told may go where the process hangs


class Pulse:
    """The beats of a process, and how long it may be without one. It begins in a pause.

    Args:
        timeout_s: Seconds that any step may take.
        clock: Seconds that never go back.
    """

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout_s, self._clock = timeout_s, clock
        self._beat_at = clock()
        self._paused = PAUSED_BEATS
        self._steps: deque[float] = deque(maxlen=REMEMBERED)

    def beat(self) -> None:
        """A step begins."""
        now = self._clock()
        self._steps.append(now - self._beat_at)
        self._beat_at, self._paused = now, max(0, self._paused - 1)

    def pause(self) -> None:
        """Something that takes longer than a step begins, here or in another process."""
        self._paused = PAUSED_BEATS

    def is_lost(self) -> bool:
        """Whether the last beat is too long ago."""
        patience = self._timeout_s * (IN_A_PAUSE if self._paused else 1)
        usual = median_low(self._steps or [0.0])
        return self._clock() - self._beat_at > max(patience, USUAL_STEPS * usual)


@contextmanager
def watched(timeout_s: float, on_stall: Callable[[str], None]) -> Iterator[Pulse]:
    """Watch the calling process for standstill; one that stands still ends.

    A worker that hangs keeps all others waiting for it, in a sum that never comes. So each of
    them ends here after the same time, whoever is to blame; Ray starts them again, from the last
    checkpoint, and takes the process that does not even run its watch away.

    Args:
        timeout_s: Seconds without a beat; more where steps are slow, and in a pause.
        on_stall: Told the stacks of all threads of the process, before it ends. May fail or hang.

    Yields:
        The pulse, to be given a beat at each step.
    """
    pulse, ended = Pulse(timeout_s), threading.Event()

    def watch() -> None:
        while not ended.wait(timeout_s / LOOKS):
            if pulse.is_lost():
                telling = threading.Thread(target=on_stall, args=(_stacks(),), daemon=True)
                telling.start()
                telling.join(TELLING_S)
                os._exit(1)  # no exception would reach a thread that waits for a sum

    thread = threading.Thread(target=watch, name="stall", daemon=True)
    thread.start()
    try:
        yield pulse
    finally:
        ended.set()
        thread.join()


def _stacks() -> str:
    file: TextIO
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()
