"""One line that says where a run is: redrawn on a terminal, printed now and then elsewhere."""

import shutil
import sys
import time
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


class ProgressLine:
    """Shows the newest of many lines, and warnings."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown_at, self._shown = 0.0, ""

    def show(self, facts: dict[str, Any]) -> None:
        """Show the newest facts on a run, if it is time to."""
        for warning in facts["warnings"]:
            self.clear()
            warn(warning)
        self.tell(line(facts, time.time()))

    def tell(self, text: str) -> None:
        """Show the newest line, if it is time to."""
        period = TERMINAL_PERIOD_S if self._terminal else PLAIN_PERIOD_S
        now = time.time()
        if now - self._shown_at < period or (not self._terminal and text == self._shown):
            return
        self._shown_at, self._shown = now, text
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{text[:width]:<{width}}", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the line off the terminal, for something else to be printed."""
        if self._terminal and self._shown:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{'':<{width}}\r", end="", file=sys.stderr, flush=True)
