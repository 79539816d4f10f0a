"""The confirmation, of trials as a journal would hold them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ray_diffusion import config
from ray_diffusion.cluster.sweeping.confirm import judge, repeats
from ray_diffusion.cluster.sweeping.journal import State, Trial
from ray_diffusion.config.sweep import Confirm, Metric, Plan, Sweep


def plan(top: int, seeds: int) -> Plan:
    base = config.load(["digits", "run.seed=40"])
    return Plan(Sweep(name="toy", confirm=Confirm(top=top, seeds=seeds)), {}, base)


def trial(
    number: int,
    score: float | None,
    fd: float | None = None,
    state: State = "finished",
    **more: Any,
) -> Trial:
    """A trial of the search, with its score and the distance of its images."""
    return Trial(
        f"trial-{number:04d}",
        {"optim.lr": (number + 1) / 100} | more,
        state=state,
        curve={} if score is None else {64_000: score},
        figures={} if fd is None else {"sample/fd": fd, "val/score": score or 0.0},
    )


def confirmed(trials: list[Trial], by: Plan, found: Mapping[str, float]) -> list[Trial]:
    """The trials with those of the confirmation, which finish with these distances, or fail."""
    return trials + [
        Trial(
            name,
            values,
            original,
            "finished" if name in found else "failed",
            {64_000: 2 * found[name]} if name in found else {},
            {"sample/fd": found[name]} if name in found else {},
        )
        for name, values, original in repeats(trials, by)
    ]


def without_figures(trials: list[Trial]) -> list[Trial]:
    """The trials as if nothing had been drawn from them."""
    return [replace(one, figures={}) for one in trials]


def test_the_best_that_have_finished_are_repeated_with_the_seeds_after_their_own():
    trials = [
        trial(1, 0.1),
        trial(2, 0.05, state="stopped"),
        trial(3, 0.2),
        trial(4, None, state="failed"),
        trial(5, 0.01, state="running"),
    ]
    assert repeats(trials, plan(top=3, seeds=2)) == [
        ("trial-0001-seed-1", {"optim.lr": 0.02, "run.seed": 41}, "trial-0001"),
        ("trial-0001-seed-2", {"optim.lr": 0.02, "run.seed": 42}, "trial-0001"),
        ("trial-0003-seed-1", {"optim.lr": 0.04, "run.seed": 41}, "trial-0003"),
        ("trial-0003-seed-2", {"optim.lr": 0.04, "run.seed": 42}, "trial-0003"),
    ]


def test_a_seed_that_the_search_has_chosen_is_where_further_ones_begin():
    [one] = repeats([trial(0, 0.3, **{"run.seed": 7})], plan(top=3, seeds=1))
    assert one.values["run.seed"] == 8


def test_what_the_confirmation_adds_changes_nothing_of_what_it_asks_for():
    by, trials = plan(top=2, seeds=2), [trial(0, 0.3, 5.0), trial(1, 0.1, 6.0)]
    asked = repeats(trials, by)
    assert repeats(confirmed(trials, by, {one.name: 0.01 for one in asked}), by) == asked


def test_no_confirmation_asks_for_nothing_and_judges_nobody():
    trials = [trial(0, 0.3, 5.0)]
    assert repeats(trials, plan(top=0, seeds=2)) == []
    assert judge(trials, plan(top=0, seeds=2)) is None
    assert judge([trial(0, 0.3, state="failed")], plan(top=3, seeds=2)) is None


def test_the_lowest_mean_distance_wins_whatever_the_search_has_ranked_by():
    by, trials = plan(top=2, seeds=2), [trial(0, 0.1, 4.0), trial(1, 0.2, 5.0), trial(2, 0.3, 1.0)]
    found = {
        "trial-0000-seed-1": 8.0,
        "trial-0000-seed-2": 9.0,
        "trial-0001-seed-1": 5.0,
        "trial-0001-seed-2": 5.5,
    }
    judged = judge(confirmed(trials, by, found), by)
    assert judged is not None
    assert judged.metric == "sample/fd"
    assert [(one.name, one.values) for one in judged.candidates] == [
        ("trial-0001", (5.0, 5.0, 5.5)),
        ("trial-0000", (4.0, 8.0, 9.0)),
    ]


def test_a_single_trial_gets_its_mean_and_spread():
    by = plan(top=1, seeds=2)
    found = {"trial-0000-seed-1": 5.0, "trial-0000-seed-2": 6.0}
    judged = judge(confirmed([trial(0, 0.1, 4.0), trial(1, 0.2, 3.0)], by, found), by)
    assert judged is not None
    [one] = judged.candidates
    assert (one.name, one.mean, one.spread) == ("trial-0000", 5.0, 1.0)


def test_there_is_no_verdict_while_a_repeat_is_to_come():
    by, trials = plan(top=2, seeds=1), [trial(0, 0.1, 4.0), trial(1, 0.2, 5.0)]
    *others, last = confirmed(trials, by, {"trial-0000-seed-1": 4.0, "trial-0001-seed-1": 4.0})
    assert judge(others, by) is None
    assert judge([*others, replace(last, state="running")], by) is None
    assert judge([*others, last], by) is not None


def test_a_trial_of_which_a_repeat_has_failed_is_left_out():
    by, trials = plan(top=2, seeds=2), [trial(0, 0.1, 1.0), trial(1, 0.2, 5.0)]
    found = {"trial-0000-seed-1": 1.0, "trial-0001-seed-1": 5.0, "trial-0001-seed-2": 5.0}
    judged = judge(confirmed(trials, by, found), by)
    assert judged is not None
    assert [one.name for one in judged.candidates] == ["trial-0001"]
    assert judge(confirmed(trials, by, {}), by) is None


def test_without_images_to_measure_the_metric_of_the_sweep_decides_over_the_further_seeds():
    by, trials = plan(top=2, seeds=2), [trial(0, 0.01), trial(1, 0.2)]
    scores = {"trial-0000": 0.5, "trial-0001": 0.25}
    found = {one.name: scores[one.repeats] / 2 for one in repeats(trials, by)}
    judged = judge(without_figures(confirmed(trials, by, found)), by)
    assert judged is not None
    assert judged.metric == "val/score"
    assert [(one.name, one.values) for one in judged.candidates] == [
        ("trial-0001", (0.25, 0.25)),
        ("trial-0000", (0.5, 0.5)),
    ]


def test_figures_that_no_repeat_has_do_not_decide():
    by, trials = plan(top=2, seeds=1), [trial(0, 0.01, 4.0), trial(1, 0.2, 5.0)]
    found = {"trial-0000-seed-1": 0.25, "trial-0001-seed-1": 0.125}
    *_, first, second = confirmed(trials, by, found)
    judged = judge([*trials, *without_figures([first, second])], by)
    assert judged is not None
    assert (judged.metric, judged.candidates[0].values) == ("val/score", (0.25,))


def test_without_images_to_measure_a_trial_of_which_a_repeat_has_failed_is_left_out():
    by, trials = plan(top=2, seeds=2), [trial(0, 0.1), trial(1, 0.2)]
    found = {"trial-0000-seed-1": 0.1, "trial-0001-seed-1": 0.2, "trial-0001-seed-2": 0.2}
    judged = judge(without_figures(confirmed(trials, by, found)), by)
    assert judged is not None
    assert [one.name for one in judged.candidates] == ["trial-0001"]


def test_figures_of_two_kinds_are_never_held_against_one_another():
    by, trials = plan(top=2, seeds=1), [trial(0, 0.1, 4.0), trial(1, 0.2)]
    found = {"trial-0000-seed-1": 4.0, "trial-0001-seed-1": 4.0}
    judged = judge(confirmed(trials, by, found), by)
    assert judged is not None
    assert [one.name for one in judged.candidates] == ["trial-0000"]


def test_what_a_trial_was_picked_by_is_not_held_for_it_again():
    by = plan(top=2, seeds=2)
    by = replace(by, sweep=by.sweep.model_copy(update={"metric": Metric(name="sample/fd")}))
    trials = [trial(0, 1.0, 1.0), trial(1, 2.0, 2.0)]
    found = {one.name: 5.0 if one.repeats == "trial-0000" else 3.0 for one in repeats(trials, by)}
    said = judge(confirmed(trials, by, found), by)
    assert said is not None
    assert [(one.name, one.values) for one in said.candidates] == [
        ("trial-0001", (3.0, 3.0)),
        ("trial-0000", (5.0, 5.0)),
    ]
