"""What a sweep comes to in figures."""

import math
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector
from some_findings import Clock, findings, trial

from ray_diffusion.cluster.sweeping.journal import Trial
from ray_diffusion.cluster.sweeping.metering import (
    SweepMeter,
    budget_used,
    device_hours,
    saved_share,
    standing,
    standings,
)
from ray_diffusion.tracking.families import FAMILIES, ROWS
from ray_diffusion.tracking.metrics import RunState, expose

FACTS = {"trial-0000": {"images_seen": 500, "images_per_second": 100.0}}


def test_a_trial_waits_until_it_has_trained_in_this_launch():
    begun = trial(0)
    assert standing(begun, {}) == "waiting"
    assert standing(begun, FACTS) == "running"
    for state in ("stopped", "finished", "failed"):
        assert standing(trial(0, state), FACTS) == state


def test_trials_that_have_not_begun_wait_and_those_of_the_confirmation_come_on_top():
    found = findings(trial(0), trial(1), trial(2, "stopped"), trial(3, "finished"))
    assert standings(found, FACTS) == {
        "waiting": 5,
        "running": 1,
        "stopped": 1,
        "finished": 1,
        "failed": 0,
    }
    repeat = Trial("trial-0003-seed-1", {}, repeats="trial-0003", state="finished")
    assert standings(replace(found, trials=[*found.trials, repeat]), FACTS) == {
        "waiting": 5,
        "running": 1,
        "stopped": 1,
        "finished": 2,
        "failed": 0,
    }


def test_devices_are_held_by_all_workers_of_a_trial():
    given = {"num_workers": 2, "cpus_per_worker": 4, "gpus_per_worker": 0.5}
    found = findings(trial(0, seconds=1_800), trial(1, seconds=5_400), resources=given)
    assert device_hours(found.plan.sweep, found.trials) == {"CPU": 16, "GPU": 2}


@pytest.mark.parametrize(
    ("budget", "used"),
    [
        ({}, None),
        ({"hours": 2}, 0.5),
        ({"gpu_hours": 8}, 0.25),
        ({"hours": 8, "gpu_hours": 8}, 0.25),
        ({"hours": 4, "gpu_hours": 1}, 2.0),
    ],
)
def test_the_scarcer_of_time_and_gpus_is_the_budget(budget: dict[str, float], used: float | None):
    sweep = findings(budget=budget, resources={"gpus_per_worker": 1}).plan.sweep
    assert budget_used(sweep, [trial(0, seconds=5_400), trial(1, seconds=1_800)], 3_600) == used


def test_saved_is_what_stopped_trials_did_not_train_on():
    found = findings(
        trial(0, "finished", {500: 0.5, 1_000: 0.25}),
        trial(1, "stopped", {100: 0.75}),
        trial(2, "failed", {300: 0.5}),
        trial(3),
    )
    assert saved_share(found) == pytest.approx(900 / (1_000 + 100 + 900 + 300))
    assert saved_share(findings()) == 0


def test_prometheus_is_told_how_the_sweep_stands():
    found = findings(
        trial(0),
        trial(1, "finished", {1_000: 0.25}),
        trial(2, "stopped", {100: 0.125}),
        seconds=900,
        budget={"hours": 1},
    )
    [own, *states] = SweepMeter(lambda: 50.0).report(found, FACTS)
    assert own == (
        {},
        {
            "sweep_progress_age_seconds": 50.0,
            "sweep_images_saved_ratio": 900 / 2_000,
            "sweep_best_objective": 0.25,
            "sweep_budget_used_ratio": 0.25,
        },
    )
    assert {labels["state"]: found["sweep_trials"] for labels, found in states} == {
        "waiting": 5,
        "running": 1,
        "stopped": 1,
        "finished": 1,
        "failed": 0,
    }


def test_without_a_finished_trial_or_a_budget_nothing_is_made_up():
    own = SweepMeter().report(findings(trial(0, "stopped", {100: 0.1})), {})[0][1]
    assert own.keys() == {"sweep_progress_age_seconds", "sweep_images_saved_ratio"}


def test_what_is_told_comes_out_of_a_scrape_family_by_family():
    found = findings(trial(0, "finished", {1_000: math.nan}), budget={"hours": 1})
    report = SweepMeter().report(found, {})
    told = {name for _, snapshot in report for name in snapshot}
    assert told == {family.name for family in ROWS["sweep"]} <= FAMILIES.keys()

    class Once(Collector):
        def collect(self):  # type: ignore[no-untyped-def]
            return expose({"lr": RunState(report, None)}, 0.0)

    registry = CollectorRegistry()
    registry.register(Once())
    text = generate_latest(registry).decode()
    assert 'ray_diffusion_sweep_trials{run="lr",state="waiting"} 7.0' in text
    assert 'ray_diffusion_sweep_best_objective{run="lr"} NaN' in text


def test_progress_is_a_trial_that_begins_comes_further_or_ends():
    clock = Clock()
    meter = SweepMeter(clock)

    def progressed_at(*trials: Trial, facts: Any) -> Any:
        clock.now += 1
        return meter.report(findings(*trials), facts)[0][1]["sweep_progress_age_seconds"]

    assert progressed_at(facts={}) == 0
    assert progressed_at(trial(0), facts={}) == 2
    assert progressed_at(trial(0), facts=FACTS) == 3
    assert progressed_at(trial(0), facts=FACTS) == 3
    faster = {"trial-0000": {"images_seen": 500, "images_per_second": 120.0}}
    assert progressed_at(trial(0), facts=faster) == 3
    further = {"trial-0000": {"images_seen": 600}}
    assert progressed_at(trial(0), facts=further) == 6
    assert progressed_at(trial(0, curve={700: 0.5}), facts=further) == 7
    assert progressed_at(trial(0, "stopped", {700: 0.5}), facts=further) == 8
    assert progressed_at(trial(0, "stopped", {700: 0.5}), facts=further) == 8
