"""Where a run is, for a person: redrawn in place on a terminal, printed now and then elsewhere."""

import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from ray_diffusion.errors import warn

TERMINAL_PERIOD_S = 1.0
PLAIN_PERIOD_S = 30.0


def duration(seconds: float) -> str:
    """A length of time for a person.

    >>> duration(59), duration(104), duration(7322)
    ('59 s', '1:44', '2:02:02')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def line(facts: dict[str, Any], now: float) -> str:
    """The progress line.

    Args:
        facts: What the workers posted last.
        now: The time, as ``time.time()`` tells it.

    Returns:
        One line.
    """
    if "images_seen" not in facts:
        return "starting the workers"
    seen, total, speed = facts["images_seen"], facts["total_images"], facts["images_per_second"]
    parts = [
        f"{seen:,} of {total:,} images ({seen / total:.0%})",
        f"loss {facts['loss']:.4f}",
        f"{speed:,.0f} images/s",
        f"data wait {facts['data_wait_fraction']:.0%}",
        *([f"{facts['workers']} workers"] if facts.get("workers", 1) > 1 else []),
        f"{duration(max(0, total - seen) / speed)} left",
    ]
    if "checkpoint_at" in facts:
        parts.append(f"checkpoint {duration(now - facts['checkpoint_at'])} old")
    return " · ".join(parts)


class Display:
    """Shows the newest of many texts on stderr.

    Args:
        plain_period_s: Seconds between two texts where there is no terminal.
        clock: Seconds that never go back.
    """

    def __init__(
        self, plain_period_s: float = PLAIN_PERIOD_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._period_s = TERMINAL_PERIOD_S if self._terminal else plain_period_s
        self._clock, self._drawn_at = clock, -math.inf
        self._drawn: Sequence[str] = ()

    @property
    def due(self) -> bool:
        """Whether it is time to draw."""
        return self._clock() - self._drawn_at >= self._period_s

    @property
    def room(self) -> tuple[int, int]:
        """How many characters of a line, and how many lines, a terminal shows."""
        columns, lines = shutil.get_terminal_size()
        return columns - 1, lines - 1

    def draw(self, lines: Sequence[str]) -> None:
        """Show lines, in the place of those drawn before; on a terminal what there is room for."""
        if self._terminal:
            width, height = self.room
            lines = [line[:width] for line in lines[:height]]
            self._print(self._home() + "\x1b[K\n".join(lines) + "\x1b[J", end="")
        elif lines != self._drawn:
            self._print("\n".join(lines))
        self._drawn_at, self._drawn = self._clock(), lines

    def clear(self) -> None:
        """Take what is drawn off the terminal, for something else to be printed."""
        if self._terminal and self._drawn:
            self._print(self._home() + "\x1b[J", end="")
            self._drawn = ()

    def say(self, text: str) -> None:
        """Print a line that stays, above what is drawn."""
        self.clear()
        self._print(text)

    def warn(self, message: str) -> None:
        """Tell the user something that does not stop the command, above what is drawn."""
        self.clear()
        warn(message)

    def _home(self) -> str:
        """What brings the cursor back to where drawing began."""
        up = len(self._drawn) - 1
        return f"\r\x1b[{up}A" if up > 0 else "\r"

    def _print(self, text: str, end: str = "\n") -> None:
        print(text, end=end, file=sys.stderr, flush=True)


class ProgressLine(Display):
    """Shows the newest of many lines, and warnings."""

    def show(self, facts: dict[str, Any]) -> None:
        """Show the newest facts on a run, if it is time to."""
        for warning in facts["warnings"]:
            self.warn(warning)
        self.tell(line(facts, time.time()))

    def tell(self, text: str) -> None:
        """Show the newest line, if it is time to."""
        if self.due:
            self.draw([text])
