"""The drawings of a sweep's report, a section each; empty where there is nothing to draw."""

import io
import math
import re
from collections.abc import Mapping
from typing import Any

from PIL import Image

from ray_diffusion.cluster.sweeping.confirm import DECIDES
from ray_diffusion.cluster.sweeping.findings import Findings
from ray_diffusion.cluster.sweeping.journal import Trial
from ray_diffusion.cluster.sweeping.wording import assignments, number, words
from ray_diffusion.page.chart import PLAIN, SERIES, Dot, Line, chart, legend, series, shade
from ray_diffusion.page.document import grid, picture, section
from ray_diffusion.page.parallel import Axis, Path, parallel
from ray_diffusion.page.scale import Categories, Scale, brief, fit

SCHEDULE = "diffusion.beta_schedule"
OTHERS = "var(--poor)"
PICTURES, COLUMNS = 6, 3
MOST_BYTES, MOST_PIXELS = 60_000, 480  # of a picture; the page is to stay below 1 MB

Figures = tuple[float, float]


def varying(findings: Findings) -> list[str]:
    """The dotted keys in which trials differ."""
    keys = dict.fromkeys(key for trial in findings.chosen for key in trial.values)
    return [key for key in keys if len({words(trial.values[key]) for trial in findings.chosen}) > 1]


def rungs(findings: Findings) -> str:
    """The metric of each trial against the images that it has seen."""
    verticals = {brief(rung): rung for rung in findings.rungs}
    (colors, meaning), winner = _keyed(findings), findings.winner
    lines = [
        Line(
            f"{trial.name}, {trial.state}: {assignments(trial)}",
            sorted(trial.curve.items()),
            colors[trial.name],
            _kind(trial, winner),
            trial.state in ("stopped", "failed"),
        )
        for trial in _best_last(findings)
    ]
    if not any(line.points for line in lines):
        return ""
    text = "A cross marks where a trial was stopped or failed; those that did not finish are pale."
    text += " Dashed lines are the rungs at which trials are judged." if verticals else ""
    text += f" The thick line is the winner, {winner.name}." if winner else ""
    drawing = chart("images seen", findings.plan.sweep.metric.name, lines, verticals=verticals)
    return section("Curves", drawing + legend(meaning), text)


def coordinates(findings: Findings) -> str:
    """Each trial's values and its metric as a line across all of them."""
    keys, metric = varying(findings), findings.plan.sweep.metric
    if not keys:
        return ""
    axes = [Axis(key, _scale(findings, key)) for key in keys]
    reached = fit(trial.value for trial in findings.chosen)
    strength = {trial.name: i / len(findings.chosen) for i, trial in enumerate(findings.chosen)}
    paths = [
        Path(
            f"{trial.name}, {trial.state}: {assignments(trial)}, "
            f"{metric.name} {number(trial.value)}",
            [*(_place(axis, trial.values[axis.name]) for axis in axes), trial.value],
            shade(strength[trial.name]),
            _kind(trial, findings.winner),
        )
        for trial in _best_last(findings)
    ]
    text = (
        "A line for each trial, the stronger the better its place in the table; pale ones did not "
        f"finish, and end at the {metric.name} that they had last. The thick one is the winner."
    )
    return section("Parameters", parallel([*axes, Axis(metric.name, reached)], paths), text)


def quality_against_cost(findings: Findings) -> str:
    """How good each finished trial became, and how long it took."""
    metric, done = findings.plan.sweep.metric, findings.finished
    measured = {t.name: t.figures[DECIDES] for t in done if DECIDES in t.figures}
    reached = {t.name: t.value for t in done if t.value is not None}
    name, figures = (DECIDES, measured) if measured else (metric.name, reached)
    found = {t.name: (t.seconds, figures[t.name]) for t in done if t.name in figures}
    if not found:
        return ""
    front, winner = _front(found), findings.winner
    colors, meaning = _keyed(findings)
    dots = [
        Dot(
            f"{trial.name}: {assignments(trial)}",
            *found[trial.name],
            colors[trial.name],
            _kind(trial, winner),
            trial.name if trial.name in front or trial is winner else "",
        )
        for trial in _best_last(findings)
        if trial.name in found
    ]
    line = Line(
        "no trial is both faster and better", [found[name] for name in front], "var(--soft)"
    )
    text = "The line joins the trials of which no other is both faster and better."
    drawing = chart("seconds", name, [line], dots)
    return section("Quality against cost", drawing + legend(meaning), text)


def profiles(findings: Findings) -> str:
    """The denoising error of each finished trial at each noise level."""
    colors, meaning = _keyed(findings, each=True)
    lines = [
        Line(
            f"{trial.name}: {assignments(trial)}",
            points,
            colors[trial.name],
            _kind(trial, findings.winner),
        )
        for trial in reversed(findings.finished)
        if (points := _profile((findings.home / trial.name).read("profile.csv")))
    ]
    if not lines:
        return ""
    text = (
        "Squared error of the noise at the same noise levels for all, whatever their schedule: "
        "much noise on the left, little on the right. Lower is better."
    )
    drawing = chart("logsnr", "error of the noise", lines)
    return section("Error by noise level", drawing + legend(meaning), text)


def pictures(findings: Findings) -> str:
    """What the best trials draw, side by side."""
    shown = []
    for trial in findings.finished:
        folder = findings.home / trial.name / "samples"
        names = [name for name in folder.names() if re.fullmatch(r"\d+\.png", name)]
        if names and (content := folder.read(names[-1])):
            figure = trial.figures.get(DECIDES)
            caption = f"{trial.name}: {assignments(trial)}"
            caption += "" if figure is None else f", {DECIDES} {number(figure)}"
            shown.append(picture([_small(content)], f"drawn by {trial.name}", caption))
        if len(shown) == PICTURES:
            break
    if not shown:
        return ""
    return section("Images", grid(shown, COLUMNS), "Of the best trials, the best first.")


def _best_last(findings: Findings) -> list[Trial]:
    """In the order in which they are drawn, the winner over all others."""
    winner = findings.winner
    return sorted(reversed(findings.chosen), key=lambda trial: trial is winner)


def _kind(trial: Trial, winner: Trial | None) -> str:
    if winner is not None and trial.name == winner.name:
        return "best"
    return "" if trial.state == "finished" else "faded"


def group(findings: Findings) -> str | None:
    """The parameter whose values have a colour each: the schedule, or another that has names."""
    for key in sorted(varying(findings), key=lambda key: key != SCHEDULE):
        values = [trial.values[key] for trial in findings.chosen]
        if all(isinstance(value, str) for value in values) and 2 <= len(set(values)) <= SERIES:
            return key
    return None


def _keyed(findings: Findings, each: bool = False) -> tuple[dict[str, str], dict[str, str]]:
    """The colour of each trial by its name, and what colours mean.

    Args:
        findings: What the sweep has found.
        each: Whether the best trials get a colour each where no parameter has names.
    """
    if key := group(findings):
        values = sorted({trial.values[key] for trial in findings.chosen})
        meaning = {value: series(i) for i, value in enumerate(values)}
        colors = {trial.name: meaning[trial.values[key]] for trial in findings.chosen}
        return colors, {f"{key}={value}": color for value, color in meaning.items()}
    if not each:
        return dict.fromkeys((trial.name for trial in findings.chosen), PLAIN), {}
    best = {trial.name: series(i) for i, trial in enumerate(findings.finished[:SERIES])}
    others = dict.fromkeys((trial.name for trial in findings.chosen), OTHERS)
    return others | best, best


def _scale(findings: Findings, key: str) -> Scale | Categories:
    """The axis of a parameter: of a range the range, of a list all values that were tried."""
    parameter = findings.plan.space.get(key)
    if parameter is not None and parameter.values is None:
        return fit(parameter.ends, log=parameter.distribution == "log_uniform")
    tried = [trial.values[key] for trial in findings.chosen]
    numbers = all(isinstance(value, int | float) for value in tried)
    tried.sort(key=None if numbers else words)
    return Categories(tuple(dict.fromkeys(map(words, tried))))


def _place(axis: Axis, value: Any) -> Any:
    return words(value) if isinstance(axis.scale, Categories) else value


def _front(found: Mapping[str, Figures]) -> list[str]:
    """Names of what nothing else is both cheaper and better than, the cheapest first."""
    front, best = [], math.inf
    for name, (_, figure) in sorted(found.items(), key=lambda item: (item[1][0], item[1][1])):
        if figure < best:
            front.append(name)
            best = figure
    return front


def _profile(content: bytes | None) -> list[tuple[float, float]]:
    """Noise levels and errors of a run's file; none if it has no such file."""
    _, *rows = (content or b"").decode().split() or [""]
    return [(float(level), float(error)) for level, error in (row.split(",") for row in rows)]


def _small(content: bytes) -> bytes:
    """A picture as it is, or made smaller if it would take too much of the page."""
    if len(content) <= MOST_BYTES:
        return content
    image = Image.open(io.BytesIO(content)).convert("RGB")
    image.thumbnail((MOST_PIXELS, MOST_PIXELS))
    file = io.BytesIO()
    image.save(file, "webp", quality=70)
    return file.getvalue()
