"""How a sweep gets on, for a person: a table that is redrawn, and the last lines on the screen."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ray_diffusion.cluster.progress import Display, duration
from ray_diffusion.cluster.summary import images_of_codec, uses
from ray_diffusion.cluster.sweeping.findings import Findings
from ray_diffusion.cluster.sweeping.journal import Trial
from ray_diffusion.cluster.sweeping.metering import (
    Facts,
    Standing,
    budget_used,
    device_hours,
    saved_share,
    standing,
    standings,
)
from ray_diffusion.cluster.sweeping.wording import assignments, words

PLAIN_PERIOD_S = 60.0
REPORT = "report.html"


def header(findings: Findings, facts: Facts) -> str:
    """Where a sweep is, in one line."""
    sweep, counts = findings.plan.sweep, standings(findings, facts)
    used = budget_used(sweep, findings.trials, findings.seconds)
    saved = saved_share(findings)
    parts = [
        f"{_counted(counts)} of {sum(counts.values())}",
        duration(findings.seconds),
        *([f"budget left {max(0.0, 1 - used):.0%}"] if used is not None else []),
        *([f"images saved {saved:.0%}"] if saved else []),
    ]
    return f"{sweep.name}: {' · '.join(parts)}"


def _counted(counts: Mapping[Standing, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def lines(findings: Findings, facts: Facts, width: int, height: int) -> list[str]:
    """The table: where the sweep is, and a line for each trial, the best first.

    Args:
        findings: What the sweep has found so far.
        facts: What its trials posted.
        width: Of a line at the most, in characters.
        height: How many lines there may be; where trials have no room, the middle is left out.

    Returns:
        Lines without trailing spaces.
    """
    repeats = sorted((t for t in findings.trials if t.repeats is not None), key=lambda t: t.name)
    searched, plan, keys = findings.chosen, findings.plan, list(findings.plan.space)
    first = ["trial", "state", "done", "images/s", "left", plan.sweep.metric.name, *_short(keys)]
    rows = [
        [*_progress(trial, facts, findings), *(words(trial.values.get(key, "")) for key in keys)]
        for trial in [*searched, *repeats]
    ]
    numeric = [all(_is_number(t.values.get(key)) for t in findings.trials) for key in keys]
    heads, *table = _aligned([first, *rows], [False, False, *[True] * 4, *numeric])
    below = ["confirmation", *table[len(searched) :]] if repeats else []
    above = _fitted(table[: len(searched)], max(1, height - 2 - len(below)))
    shown = [header(findings, facts), heads, *above, *below][:height]
    return [line[:width].rstrip() for line in shown]


def _progress(trial: Trial, facts: Facts, findings: Findings) -> list[str]:
    """The cells of a trial that tell where it is."""
    posted = facts.get(trial.name, {})
    total = findings.total_images(trial)
    seen = max(trial.images_seen, posted.get("images_seen", 0))
    state, speed = standing(trial, facts), posted.get("images_per_second", math.nan)
    moving = state == "running" and speed > 0
    return [
        trial.name,
        state,
        f"{seen / total:.0%}",
        f"{speed:,.0f}" if moving else "",
        duration(max(0, total - seen) / speed) if moving else "",
        "" if trial.value is None else f"{trial.value:.4g}",
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(keys: Sequence[str]) -> list[str]:
    """The last part of each key; all of it where two share that."""
    last = [key.rpartition(".")[2] for key in keys]
    often = Counter(last)
    return [key if often[name] > 1 else name for key, name in zip(keys, last, strict=True)]


def _aligned(rows: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if numeric else cell.ljust(width)
            for cell, width, numeric in zip(row, widths, right, strict=True)
        )
        for row in rows
    ]


def _fitted(rows: list[str], room: int) -> list[str]:
    """Rows without those in the middle for which there is no room."""
    if len(rows) <= room:
        return rows
    last = (room - 1) // 2
    first = room - 1 - last
    gap = f"… {len(rows) - first - last} more"
    return [*rows[:first], gap, *rows[len(rows) - last :]]


class Screen(Display):
    """Shows the table on a terminal; elsewhere where the sweep is, and who begins and ends.

    Args:
        trials: As they were before this launch: they are no news.
        clock: Seconds that never go back.
    """

    def __init__(
        self, trials: Iterable[Trial] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(PLAIN_PERIOD_S, clock)
        self._told: dict[str, str] = {trial.name: trial.state for trial in trials if trial.over}

    def show(self, findings: Findings, facts: Facts) -> None:
        """Show how the sweep gets on, if it is time to, and at once what is news.

        Args:
            findings: What the sweep has found so far.
            facts: What its trials posted.
        """
        for trial in findings.trials:
            state = standing(trial, facts)
            if state not in ("waiting", self._told.get(trial.name)):
                self._told[trial.name] = state
                if state == "failed" or not self._terminal:
                    self.say(event(trial, findings))
        if self.due:
            terminal = self._terminal
            self.draw(lines(findings, facts, *self.room) if terminal else [header(findings, facts)])


def event(trial: Trial, findings: Findings) -> str:
    """What has become of a trial that has begun or ended, in one line."""
    share = f"{trial.images_seen / findings.total_images(trial):.0%}"
    name = findings.plan.sweep.metric.name
    figure = f"no {name}" if trial.value is None else f"{name} {trial.value:.4g}"
    best = " (best so far)" if trial is findings.winner else ""
    said = {
        "running": f"goes on at {share}" if trial.curve else "started",
        "finished": f"finished: {figure}{best}",
        "stopped": f"stopped at {share}: {figure}",
        "failed": f"failed: {_first_line(trial.reason)}",
    }[trial.state]
    return f"{trial.name} {said} · {assignments(trial)}"


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def block(findings: Findings) -> str:
    """What came out of a sweep, in a few lines."""
    sweep, home, best = findings.plan.sweep, findings.home.url, findings.winner
    counts = standings(findings, {})
    used = budget_used(sweep, findings.trials, findings.seconds)
    failed = [trial for trial in findings.trials if trial.state == "failed"]
    hours = device_hours(sweep, findings.trials)
    rows = {
        "status": f"{_counted(counts)} of {sum(counts.values())} trials"
        + (", the budget is used up" if used is not None and used >= 1 else ""),
        "failed": "; ".join(f"{trial.name}: {_first_line(trial.reason)}" for trial in failed[:3])
        + (f"; and {len(failed) - 3} more" if len(failed) > 3 else ""),
        "spent": ", ".join(
            [
                duration(findings.seconds),
                *(f"{spent:.2f} {kind}-hours" for kind, spent in hours.items() if spent),
            ]
        ),
        "saved": f"{findings.images_saved:,} images ({saved_share(findings):.0%}), "
        "by stopping trials early"
        if findings.images_saved
        else "",
        "winner": f"{best.name}: {assignments(best)}" if best else "none: no trial has finished",
        "figures": _figures(best, sweep.metric.name) if best else "",
        "verdict": findings.verdict.text if findings.verdict else "",
        "report": f"{home}/{REPORT}",
    }
    if best:
        rows |= uses(findings.model(best), images_of_codec(findings.plan.trial(best.values)))
    if findings.left:
        rows["continue"] = findings.command
    return "\n".join(f"{name:<10} {text}" for name, text in rows.items() if text)


def _figures(trial: Trial, metric: str) -> str:
    own = {} if trial.value is None else {metric: trial.value}
    return ", ".join(f"{name} {value:.4g}" for name, value in (own | dict(trial.figures)).items())
