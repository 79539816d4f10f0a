"""What a sweep's trials say about its parameters, and about the figure it chose by.

Each is a section of the report; empty where nothing can be said.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from statistics import fmean

from ray_diffusion.cluster.sweeping.charts import Figures, group, varying
from ray_diffusion.cluster.sweeping.confirm import DECIDES
from ray_diffusion.cluster.sweeping.findings import Findings
from ray_diffusion.cluster.sweeping.journal import Trial
from ray_diffusion.cluster.sweeping.wording import number, words
from ray_diffusion.evaluation.importance import FEWEST, importance
from ray_diffusion.evaluation.ranks import ranks, spearman
from ray_diffusion.page.chart import bars
from ray_diffusion.page.document import section, table

FEWEST_RANKED = 4  # trials
TWO_SIDED = 1.96  # of a normal distribution: one of twenty lies further out


def parameters_that_matter(findings: Findings) -> str:
    """How much of the trials' ranking hangs on each parameter."""
    keys, metric = varying(findings), findings.plan.sweep.metric
    images_seen = _common(findings.chosen)
    title = "What matters"
    if len(keys) < 2 or images_seen is None:
        text = f"Not told: it takes {FEWEST} trials with a common images seen and 2 parameters."
        return section(title, "", text)
    compared = [trial for trial in findings.chosen if images_seen in trial.curve]
    figures = [trial.curve[images_seen] for trial in compared]
    text = (
        f"{metric.name} at {images_seen:,} images, to which {len(compared)} of "
        f"{len(findings.chosen)} trials came: later, only those that were good are left. "
    )
    found = importance({key: [t.values.get(key) for t in compared] for key in keys}, figures)
    if found.told <= 0:
        return section(title, "", text + "Their order cannot be told from these parameters.")
    text += (
        f"A random forest tells {found.told:.0%} of the order of trials that it has not seen; a "
        "bar is the share that hangs on a parameter, alone or together with others."
    )
    return section(title, bars(found.shares), text)


def agreement(findings: Findings) -> str:
    """Whether the search's metric ranks trials as their images do."""
    metric = findings.plan.sweep.metric
    done = [trial for trial in findings.finished if DECIDES in trial.figures]
    if metric.name == DECIDES or len(done) < FEWEST_RANKED:
        return ""
    rows = {
        trial.name: (
            trial.figures.get(metric.name, trial.value or math.nan),
            trial.figures[DECIDES],
        )
        for trial in done
    }
    content = _ranked("trial", metric.name, rows)
    if key := group(findings):
        of_value: dict[str, list[Figures]] = {}
        for trial in done:
            of_value.setdefault(words(trial.values[key]), []).append(rows[trial.name])
        means = {
            value: (fmean(own for own, _ in pairs), fmean(drawn for _, drawn in pairs))
            for value, pairs in of_value.items()
        }
        content += _ranked(f"mean by {key}", metric.name, means)
    own, drawn = zip(*rows.values(), strict=True)
    found = spearman(own, drawn)
    text = (
        f"Spearman's rank correlation of {metric.name} and {DECIDES} over the {len(rows)} trials "
        f"that finished is {found:.2f}: {_meaning(found, len(rows))}."
    )
    return section("Does the search's figure agree with the images?", content, text)


def _common(trials: Sequence[Trial]) -> int | None:
    """The most images seen at which enough trials have a figure, and no fewer than half."""
    counts = Counter(images_seen for trial in trials for images_seen in trial.curve)
    enough = max(FEWEST, len(trials) / 2)
    return max((seen for seen, count in counts.items() if count >= enough), default=None)


def _ranked(head: str, metric: str, rows: Mapping[str, Figures]) -> str:
    """Two figures of each row and its place by either, the one with the best images first."""
    own = ranks([figure for figure, _ in rows.values()])
    drawn = ranks([figure for _, figure in rows.values()])
    places = sorted(zip(drawn, own, rows, strict=True))
    cells = (
        (
            escape(name),
            number(rows[name][0]),
            f"{by_own:g}",
            f"<b>{number(rows[name][1])}</b>",
            f"{by_drawn:g}",
        )
        for by_drawn, by_own, name in places
    )
    return table((escape(head), metric, "place", DECIDES, "place"), cells)


def _meaning(correlation: float, count: int) -> str:
    if math.isnan(correlation):
        return "one of the two is the same for all"
    if abs(correlation) <= TWO_SIDED / math.sqrt(count - 1):
        return f"among {count} that may be chance, so this does not show whether they agree"
    if correlation > 0:
        return "what the search prefers draws better images too"
    return "what the search prefers draws worse images, so it must not choose by this figure alone"
