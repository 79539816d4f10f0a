"""The best trials of a sweep once more, with other seeds: is the best one better, or lucky?"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from ray_diffusion.cluster.sweeping.journal import Trial, ranked
from ray_diffusion.config.sweep import Plan
from ray_diffusion.evaluation.verdict import Verdict, verdict

DECIDES: Final = "sample/fd"
"""The figure that winners are chosen by: of the images, which are what a model is for."""


class Repeat(NamedTuple):
    """A trial of the confirmation.

    Attributes:
        name: Its directory below the sweep's.
        values: What it changes in the base, by dotted key.
        repeats: The trial that it repeats.
    """

    name: str
    values: dict[str, Any]
    repeats: str


def repeats(trials: Sequence[Trial], plan: Plan) -> list[Repeat]:
    """What the best trials of a search are to be tried again as.

    Args:
        trials: All of the sweep.
        plan: The sweep; its ``confirm`` says how many trials, and with how many further seeds.

    Returns:
        Those of the best trial first; of one trial, those with the smaller seed. A search whose
        trials have all come to an end always asks for the same.
    """
    confirm = plan.sweep.confirm
    finished = [one for one in trials if one.repeats is None and one.state == "finished"]
    return [
        Repeat(
            f"{trial.name}-seed-{further}",
            {**trial.values, "run.seed": plan.trial(trial.values).run.seed + further},
            trial.name,
        )
        for trial in ranked(finished)[: confirm.top]
        for further in range(1, confirm.seeds + 1)
    ]


def judge(trials: Sequence[Trial], plan: Plan) -> Verdict | None:
    """Which of the trials that were tried again is the best.

    Args:
        trials: All of the sweep.
        plan: The sweep.

    Returns:
        The verdict by ``sample/fd``, or by the sweep's own metric if no repeat has that, as of
        autoencoders. What a trial was picked by does not count for it again: the best of many was
        lucky, too. A trial that lacks a figure, as of a repeat that failed, is left out. None while
        there are repeats to come, which might change it, and if there is nobody left.
    """
    known = {trial.name: trial for trial in trials}
    groups: dict[str, list[Trial]] = {}
    for name, _, original in repeats(trials, plan):
        if name not in known or not known[name].over:
            return None
        groups.setdefault(original, []).append(known[name])
    drawn = any(DECIDES in trial.figures for group in groups.values() for trial in group)
    picked_by_another = drawn and not plan.sweep.metric.of_samples
    found: dict[str, list[float]] = {}
    for original, group in groups.items():
        counted = [known[original], *group] if picked_by_another else group
        figures = [trial.figures.get(DECIDES) if drawn else trial.value for trial in counted]
        values = [figure for figure in figures if figure is not None]
        if len(values) == len(counted):
            found[original] = values
    return verdict(DECIDES if drawn else plan.sweep.metric.name, found) if found else None
