"""What became of a sweep's trials so far: the truth that a sweep goes on from."""

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ray_diffusion.config import Config
from ray_diffusion.errors import UsageError
from ray_diffusion.storage import Directory

FILE = "sweep.jsonl"
State = Literal["running", "stopped", "finished", "failed"]


@dataclass
class Trial:
    """What is known of a trial.

    Attributes:
        name: Its directory below the sweep's.
        values: What it changes in the base, by dotted key.
        repeats: The trial that it repeats with another seed; None for what the search has chosen.
        state: A running one goes on from its checkpoint when the sweep does; a stopped one is
            over, because others were better.
        curve: The sweep's metric, by images seen.
        figures: What was measured of it at its end, by metric name.
        seconds: What it took, over all launches.
        reason: Why it failed; else empty.
    """

    name: str
    values: Mapping[str, Any]
    repeats: str | None = None
    state: State = "running"
    curve: dict[int, float] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    reason: str = ""

    @property
    def images_seen(self) -> int:
        """How far it was at its newest figure; 0 before the first."""
        return max(self.curve, default=0)

    @property
    def value(self) -> float | None:
        """The newest figure."""
        return self.curve[self.images_seen] if self.curve else None

    def total_images(self, base: Config) -> int:
        """Images that it is trained on if nothing stops it.

        Args:
            base: What it differs from in its values.
        """
        total: int = self.values.get("training.total_images", base.training.total_images)
        return total

    @property
    def over(self) -> bool:
        """Whether it will not go on."""
        return self.state != "running"


def trial_name(number: int) -> str:
    """The name of the trial that was chosen as the number-th; names sort by number."""
    return f"trial-{number:04d}"


def ranked(trials: Iterable[Trial]) -> list[Trial]:
    """Trials in their order, the best first.

    Those that have finished come first; of the others, those that came further: figures compare
    only at the same images seen. The smaller figure is the better one; one that is no number, or
    missing, is worse than all others.
    """

    def place(trial: Trial) -> tuple[bool, int, float, str]:
        value = math.nan if trial.value is None else trial.value
        finished = trial.state == "finished"
        return (
            not finished,
            0 if finished else -trial.images_seen,
            math.inf if math.isnan(value) else value,
            trial.name,
        )

    return sorted(trials, key=place)


class Journal:
    """The trials of a sweep, and a line on disk for everything that happens to one.

    The file is written whole at each line: object stores have no append, and it stays small. What
    was spent until then is its last line.

    Args:
        home: The sweep's directory.
        sweep: What the sweep is, as text; a journal of another one is refused.

    Raises:
        UsageError: If the directory holds another sweep.
    """

    def __init__(self, home: Directory, sweep: str) -> None:
        self.trials: dict[str, Trial] = {}
        self.seconds = 0.0
        self.closed = False
        """Whether all that is in it was reported."""
        self._home = home
        first, content = json.dumps({"sweep": sweep}).encode(), home.read(FILE)
        if content is None:
            self._lines = [first]
            self.save()
            return
        *self._lines, spent = content.splitlines()
        if self._lines[0] != first:
            raise UsageError(
                f"{home.url} holds another sweep; choose another name, or go back to its file"
            )
        for line in [*self._lines, spent]:
            self._take(json.loads(line))

    def begin(self, name: str, values: Mapping[str, Any], repeats: str | None = None) -> None:
        """A trial is about to train, for the first time or again."""
        if name not in self.trials:
            self._note({"trial": name, "values": dict(values), "repeats": repeats})

    def report(self, name: str, images_seen: int, value: float, goes_on: bool) -> None:
        """A trial has a figure; one that does not go on is over."""
        self._note({"trial": name, "images": images_seen, "value": value, "goes_on": goes_on})

    def end(self, name: str, state: State, figures: Mapping[str, float], reason: str = "") -> None:
        """A trial is over."""
        self._note({"trial": name, "end": state, "figures": dict(figures), "reason": reason})

    def close(self) -> None:
        """All that has happened is reported."""
        self._note({"closed": True})

    def spend(self, seconds: float, names: Collection[str]) -> None:
        """So many seconds have gone by, for the sweep and for some of its trials.

        Args:
            seconds: Since it was told last; written down with the next line, or by ``save``.
            names: The trials that have used them.
        """
        self.seconds += seconds
        for name in names:
            self.trials[name].seconds += seconds

    def told(self) -> Iterator[tuple[str, int, float]]:
        """All figures in the order in which they came: trial, images seen, value."""
        for line in map(json.loads, self._lines):
            if "images" in line:
                yield line["trial"], line["images"], line["value"]

    def save(self) -> None:
        """Write all of it."""
        by_trial = {trial.name: round(trial.seconds, 3) for trial in self.trials.values()}
        spent = {"seconds": round(self.seconds, 3), "by_trial": by_trial}
        self._home.write(FILE, b"\n".join([*self._lines, json.dumps(spent).encode(), b""]))

    def _note(self, line: dict[str, Any]) -> None:
        self._take(line)
        self._lines.append(json.dumps(line).encode())
        self.save()

    def _take(self, line: dict[str, Any]) -> None:
        self.closed = "closed" in line or ("seconds" in line and self.closed)
        match line:
            case {"trial": name, "values": values, "repeats": repeats}:
                self.trials[name] = Trial(name, values, repeats)
            case {"trial": name, "images": images, "value": value, "goes_on": goes_on}:
                self.trials[name].curve[images] = value
                self.trials[name].state = "running" if goes_on else "stopped"
            case {"trial": name, "end": state, "figures": figures, "reason": reason}:
                trial = self.trials[name]
                trial.state, trial.figures, trial.reason = state, figures, reason
            case {"seconds": seconds, "by_trial": by_trial}:
                self.seconds = seconds
                for name, spent in by_trial.items():
                    self.trials[name].seconds = spent
