"""A sweep as one HTML page: what was tried, what is best, how sure that is, what it cost."""

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from ray_diffusion import config
from ray_diffusion.cluster import summary
from ray_diffusion.cluster.progress import duration
from ray_diffusion.cluster.sweeping import charts, insights
from ray_diffusion.cluster.sweeping.charts import varying
from ray_diffusion.cluster.sweeping.confirm import DECIDES
from ray_diffusion.cluster.sweeping.findings import TRAINED, Findings
from ray_diffusion.cluster.sweeping.journal import Trial
from ray_diffusion.cluster.sweeping.metering import device_hours, saved_share
from ray_diffusion.cluster.sweeping.wording import assignments, number, words
from ray_diffusion.config.space import Parameter
from ray_diffusion.page.chart import STYLE
from ray_diffusion.page.document import LARGE, beside, document, listing, section, table

FILES = (".yaml", ".yml")
USES = {"look": "draw from it", "measure": "measure it", "encode": "encode its images with it"}
HERE = """
pre { margin: 0 0 .6rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; }
.grid { gap: 1rem; }
figcaption { overflow-wrap: anywhere; margin-top: .3rem; }
thead th { vertical-align: bottom; }
th:first-child { white-space: nowrap; }
table + table { margin-top: 1rem; }
@media (max-width: 44rem) { .grid:has(figcaption) { --columns: 1 !important; } }
"""


def page(findings: Findings) -> str:
    """Write the page.

    Args:
        findings: What the sweep has found; trials may be running, or none have begun.

    Returns:
        HTML that needs no other file; the same for the same findings and files.
    """
    sweep = findings.plan.sweep
    body = [
        f"<h1>{escape(sweep.name)}</h1><p>{escape(findings.home.url)}</p>",
        beside(
            section("Search", listing(_search(findings))),
            section("Winner", listing(_winner(findings)), _verdict(findings)),
        ),
        _candidates(findings),
        section("Trials", _trials(findings), "The best first; those that finished above others."),
        charts.rungs(findings),
        charts.coordinates(findings),
        insights.parameters_that_matter(findings),
        charts.quality_against_cost(findings),
        insights.agreement(findings),
        charts.profiles(findings),
        charts.pictures(findings),
        section("Cost", _cost(findings), _saved(findings)),
        section("Commands", _commands(findings)),
    ]
    return document(sweep.name, body, LARGE, STYLE + HERE)


def _search(findings: Findings) -> dict[str, str]:
    sweep, counts = findings.plan.sweep, Counter(trial.state for trial in findings.chosen)
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    return {
        "parameters": "; ".join(
            f"{key}: {_range(parameter)}" for key, parameter in findings.plan.space.items()
        ),
        "by": f"{sweep.metric.name}, the smaller the better",
        "method": f"{sweep.method} from {sweep.base}, {sweep.early_terminate.type}",
        "trials": f"{states or 'none'} of {findings.plan.num_trials}",
        "took": duration(findings.seconds),
    }


def _range(parameter: Parameter) -> str:
    if parameter.values is None:
        low, high = parameter.ends
        return f"{low:g} to {high:g}, {parameter.distribution or 'uniform'}"
    return ", ".join(dict.fromkeys(map(words, parameter.values)))  # of a section they come again


def _winner(findings: Findings) -> dict[str, str]:
    winner, metric = findings.winner, findings.plan.sweep.metric.name
    if winner is None:
        return {}
    facts = {"trial": winner.name, "values": assignments(winner)}
    facts[metric] = number(winner.figures.get(metric, winner.value))
    if findings.verdict is not None:
        best = findings.verdict.candidates[0]
        seeds = f"{len(best.values)} seed{'s' if len(best.values) > 1 else ''}"
        facts[findings.verdict.metric] = f"{best.text} over {seeds}"
    elif DECIDES in winner.figures:
        facts[DECIDES] = f"{number(winner.figures[DECIDES])} of one seed"
    return facts


def _verdict(findings: Findings) -> str:
    if findings.winner is None:
        return "No trial has finished."
    if findings.verdict is None:
        return (
            "It was not tried again with other seeds: how much of its lead is noise is not known."
        )
    return f"{findings.verdict.text}."


def _candidates(findings: Findings) -> str:
    found = findings.verdict
    if found is None:
        return ""
    count = max(len(candidate.values) for candidate in found.candidates)
    rows = [
        (
            escape(candidate.name),
            *map(number, candidate.values),
            *[""] * (count - len(candidate.values)),
            f"<b>{number(candidate.mean)}</b>",
            number(candidate.spread),
        )
        for candidate in found.candidates
    ]
    head = (found.metric, *(f"seed {i + 1}" for i in range(count)), "mean", "sd")
    text = "The best trials, tried again with further seeds. Lower is better."
    return section("Confirmation", table(head, rows), text)


def _trials(findings: Findings) -> str:
    keys, metric = varying(findings), findings.plan.sweep.metric.name
    drawn = [DECIDES] if findings.plan.draws else []
    rows = [
        (
            escape(trial.name),
            escape(f"failed: {trial.reason}" if trial.state == "failed" else trial.state),
            f"{trial.images_seen:,}",
            f"<b>{number(trial.value)}</b>",
            *(number(trial.figures.get(name)) for name in drawn),
            f"{trial.seconds:,.0f}",
            *(escape(words(trial.values[key])) for key in keys),
        )
        for trial in findings.chosen
    ]
    head = ("", "state", "images", f"{metric} so far", *drawn, "seconds", *map(_head, keys))
    return table(head, rows)


def _head(key: str) -> str:
    section, _, name = key.rpartition(".")
    return f"<small>{escape(section)}.</small>{escape(name)}"


def _cost(findings: Findings) -> str:
    parts = {
        "search": findings.chosen,
        "confirmation": [trial for trial in findings.trials if trial.repeats is not None],
        "together": findings.trials,
    }
    if not parts["confirmation"]:
        parts = {"search": findings.chosen}
    rows = [(name, *_spent(findings, trials)) for name, trials in parts.items()]
    if findings.plan.trains_once and (facts := summary.read(findings.home / TRAINED)):
        images, took = f"{facts['images_seen']:,}", duration(facts["seconds"])
        hours = (f"{facts[kind]:,.2f}" for kind in ("cpu_hours", "gpu_hours"))
        rows.insert(0, ("training", "1", images, took, *hours))
    return table(("", "trials", "images trained", "trials' time", "CPU-hours", "GPU-hours"), rows)


def _spent(findings: Findings, trials: Sequence[Trial]) -> tuple[str, ...]:
    trained = 0 if findings.plan.trains_once else sum(trial.images_seen for trial in trials)
    seconds = sum(trial.seconds for trial in trials)
    hours = (f"{hours:,.2f}" for hours in device_hours(findings.plan.sweep, trials).values())
    return (f"{len(trials):,}", f"{trained:,}", duration(seconds), *hours)


def _saved(findings: Findings) -> str:
    if not findings.images_saved:
        return f"It took {duration(findings.seconds)}. No trial was stopped early."
    return (
        f"It took {duration(findings.seconds)}. Stopping trials early saved training on "
        f"{findings.images_saved:,} images, {saved_share(findings):.0%} of what the trials of the "
        "search would have been trained on."
    )


def _commands(findings: Findings) -> str:
    said = {"go on with the sweep, or see that it is over": findings.command}
    if (winner := findings.winner) is not None:
        codec_of = summary.images_of_codec(findings.plan.trial(winner.values))
        uses = summary.uses(findings.model(winner), codec_of)
        said = {
            "train the winner again": reproduction(findings, winner),
            **{USES[use]: command for use, command in uses.items()},
        } | said
    return "".join(f"<p>{escape(what)}</p><pre>{escape(how)}</pre>" for what, how in said.items())


def reproduction(findings: Findings, trial: Trial) -> str:
    """The command that trains a trial again, outside of the sweep.

    Args:
        findings: What the sweep has found.
        trial: Which.

    Returns:
        A line for a shell, with all that the trial changes in the sweep's base.
    """
    base = _base(findings)
    start = config.flatten(config.load([base]))
    changed = {
        key: value
        for key, value in config.flatten(findings.plan.trial(trial.values)).items()
        if value != start[key] or key == "run.seed"
    }
    changed["run.name"] = f"{findings.plan.sweep.name}-{trial.name}"
    typed = (f"{key}={_typed(value)}" for key, value in changed.items())
    return shlex.join(["python", "-m", "ray_diffusion.train", base, *typed])


def _base(findings: Findings) -> str:
    """The sweep's base as a command line has it: a file lies beside the sweep's own."""
    base = findings.plan.sweep.base
    if not base.endswith(FILES):
        return base
    sweep_file = next(word for word in shlex.split(findings.command) if word.endswith(FILES))
    return str(Path(sweep_file).parent / base)


def _typed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
