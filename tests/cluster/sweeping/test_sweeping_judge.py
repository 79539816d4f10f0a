"""Who begins, who goes on and who is over: the judge, told directly what trials would tell it."""

from pathlib import Path

import pytest

from ray_diffusion.cluster.sweeping.judge import SAVE_PERIOD_S, Judge, Task
from ray_diffusion.config.sweep import Plan, load_sweep

FILE = """
name: judged
method: grid
metric: {name: val/score}
parameters:
  optim.lr: {values: [1.0e-4, 2.0e-4, 3.0e-4, 4.0e-4, 5.0e-4, 6.0e-4]}
early_terminate: {type: asha, grace: 0.25, eta: 3}
"""
KEYS = ["training.total_images=4000", "training.validate_every_images=1000"]


def planned(tmp_path: Path, more: str = "", *keys: str) -> Plan:
    file = tmp_path / "judged.yaml"
    file.write_text(FILE + more)
    return load_sweep(file, [*KEYS, *keys])


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return planned(tmp_path)


def judged(plan: Plan, tmp_path: Path) -> Judge:
    return Judge(plan, str(tmp_path / "home"), "a sweep", {})


def test_a_trial_is_given_its_values_and_once_over_none(plan: Plan, tmp_path: Path):
    judge, task = judged(plan, tmp_path), Task.of_search(2)
    assert judge.begin(task) == {"optim.lr": 3e-4}
    assert judge.begin(task) == {"optim.lr": 3e-4}  # its process was lost
    judge.end(task.name, "finished", {"sample/fd": 1.0})
    assert judge.begin(task) is None


def test_the_values_of_a_repeat_are_those_it_comes_with(plan: Plan, tmp_path: Path):
    judge = judged(plan, tmp_path)
    values = {"optim.lr": 1e-4, "run.seed": 1}
    assert judge.begin(Task("trial-0000-seed-1", values=values, repeats="trial-0000")) == values


def test_whoever_is_not_among_the_best_third_at_a_rung_is_over(plan: Plan, tmp_path: Path):
    judge = judged(plan, tmp_path)
    tasks = [Task.of_search(number) for number in range(3)]
    for task in tasks:
        judge.begin(task)
    assert judge.report("trial-0000", 1000, 0.5)
    assert not judge.report("trial-0001", 1000, 0.6)
    assert judge.report("trial-0002", 1000, 0.4)
    assert judge.report("trial-0000", 2000, 9.9)  # between rungs
    news = judge.read()
    assert [news.trials[task.name].state for task in tasks] == ["running", "stopped", "running"]
    assert judge.begin(tasks[1]) is None


def test_a_judge_that_comes_back_knows_what_was_said(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("time.monotonic", lambda: 0.0)
    judge = judged(plan, tmp_path)
    for number, value in ((0, 0.5), (1, 0.6)):
        judge.begin(Task.of_search(number))
        judge.report(Task.of_search(number).name, 1000, value)
    again = judged(plan, tmp_path)
    assert again.read().trials == judge.read().trials
    assert again.begin(Task.of_search(1)) is None  # though nobody told that it has ended
    again.begin(Task.of_search(0))
    assert again.report("trial-0000", 1000, 0.5)  # told again, from a checkpoint before it
    again.begin(Task.of_search(2))
    assert not again.report("trial-0002", 1000, 0.55)  # held against those before the kill


def test_a_repeat_is_never_stopped_and_stops_nobody(plan: Plan, tmp_path: Path):
    judge = judged(plan, tmp_path)
    repeat = Task("trial-0000-seed-1", values={}, repeats="trial-0000")
    judge.begin(Task.of_search(0))
    judge.report("trial-0000", 1000, 0.5)
    judge.begin(repeat)
    assert judge.report(repeat.name, 1000, 99.0)
    judge.begin(Task.of_search(1))
    assert not judge.report("trial-0001", 1000, 0.6)
    assert judged(plan, tmp_path).read().trials[repeat.name].curve == {1000: 99.0}


def test_whoever_is_over_stays_so_however_far_it_comes_before_it_stops(plan: Plan, tmp_path: Path):
    judge = judged(plan, tmp_path)
    for number, value in ((0, 0.5), (1, 0.6)):
        judge.begin(Task.of_search(number))
        judge.report(Task.of_search(number).name, 1000, value)
    assert not judge.report("trial-0001", 2000, 0.1)
    judge.end("trial-0001", "finished", {"val/score": 0.1})
    for one in (judge, judged(plan, tmp_path)):
        trial = one.read().trials["trial-0001"]
        assert (trial.state, trial.curve, trial.figures) == ("stopped", {1000: 0.6}, {})


def test_nobody_is_stopped_at_its_end_by_a_rung_just_before(tmp_path: Path):
    plan = planned(tmp_path, "", "training.validate_every_images=2500")  # rungs: 1000 and 3000
    judge, tasks = judged(plan, tmp_path), [Task.of_search(number) for number in range(2)]
    for task, values in zip(tasks, ((0.5, 0.3), (0.4, 0.35)), strict=True):
        judge.begin(task)
        assert judge.report(task.name, 2500, values[0])
        assert judge.report(task.name, 4000, values[1])
    again = judged(plan, tmp_path)
    assert again.begin(tasks[1]) is not None  # killed before it was measured


def test_a_last_figure_that_was_lost_on_its_way_is_taken_from_the_end(plan: Plan, tmp_path: Path):
    judge = judged(plan, tmp_path)
    for number, values in ((0, [0.5, 0.4]), (1, [])):
        judge.begin(Task.of_search(number))
        for step, value in enumerate(values, 3):
            judge.report(Task.of_search(number).name, 1000 * step, value)
        judge.end(Task.of_search(number).name, "finished", {"val/score": 0.3})
    trials = judge.read().trials
    assert [trial.curve for trial in trials.values()] == [{3000: 0.5, 4000: 0.4}, {4000: 0.3}]
    for one in (judge, judged(plan, tmp_path)):  # who comes next is held against it either way
        one.begin(Task.of_search(2))
        assert not one.report("trial-0002", 1000, 0.45)


def test_a_figure_of_images_is_at_the_end_of_its_own_trial(tmp_path: Path):
    file = tmp_path / "long.yaml"
    file.write_text(
        "method: grid\nmetric: {name: sample/fd}\nearly_terminate: {type: none}\n"
        "parameters:\n  training.total_images: {values: [64_000, 128_000]}\n"
    )
    judge = judged(load_sweep(file), tmp_path)
    judge.begin(Task.of_search(1))
    judge.end("trial-0001", "finished", {"sample/fd": 1.5})
    assert judge.read().trials["trial-0001"].curve == {128_000: 1.5}


def test_time_is_charged_to_those_that_had_a_process(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    judge = judged(plan, tmp_path)
    now[0] += 1
    judge.begin(Task.of_search(0))
    now[0] += 2
    judge.begin(Task.of_search(1))
    now[0] += 4
    judge.leave("trial-0000")
    judge.post("trial-0000", {"images_seen": 10})  # was on its way
    now[0] += 8
    judge.end("trial-0001", "finished", {})
    for one in (judge, judged(plan, tmp_path)):
        news = one.read()
        assert {name: trial.seconds for name, trial in news.trials.items()} == {
            "trial-0000": 6,
            "trial-0001": 12,
        }
        assert news.seconds == 15


def test_a_storage_that_is_away_for_a_moment_is_a_warning(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    judge, file = judged(plan, tmp_path), tmp_path / "home/sweep.jsonl"
    file.unlink()
    file.mkdir()  # which no file replaces
    now[0] += SAVE_PERIOD_S
    [warning] = judge.read().warnings
    assert str(file) in warning
    file.rmdir()
    now[0] += SAVE_PERIOD_S
    assert judge.read().warnings == []
    assert judged(plan, tmp_path).read().seconds == 2 * SAVE_PERIOD_S


def test_after_a_stop_nobody_begins_and_nobody_is_over(plan: Plan, tmp_path: Path):
    judge = judged(plan, tmp_path)
    judge.begin(Task.of_search(0))
    assert not judge.stopping()
    judge.request_stop()
    assert judge.stopping()
    assert judge.begin(Task.of_search(1)) is None
    assert judge.read().trials["trial-0000"].state == "running"


def test_a_budget_is_counted_over_launches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plan, now = planned(tmp_path, "budget: {hours: 1}"), [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    for spent in (False, True):
        judge = judged(plan, tmp_path)
        judge.begin(Task.of_search(0))
        now[0] += 1_850
        news = judge.read()
        assert (news.spent, news.stopping, judge.stopping()) == (spent, spent, spent)
    assert news.trials["trial-0000"].seconds == news.seconds == 3_700


def test_a_figure_of_images_joins_the_curve_at_the_end(tmp_path: Path):
    plan = planned(tmp_path)
    sweep = plan.sweep.model_copy(
        update={"metric": plan.sweep.metric.model_copy(update={"name": "sample/fd"})}
    )
    judge = judged(Plan(sweep, plan.space, plan.base), tmp_path)
    judge.begin(Task.of_search(0))
    judge.end("trial-0000", "finished", {"sample/fd": 1.5, "val/score": 0.1})
    trial = judge.read().trials["trial-0000"]
    assert (trial.curve, trial.state) == ({4000: 1.5}, "finished")


def test_a_placement_that_was_left_is_told_once(plan: Plan, tmp_path: Path):
    judge, task = judged(plan, tmp_path), Task.of_search(0)
    judge.begin(task)
    judge.placed(task.name, "first")
    assert judge.read().left == []
    judge.begin(task)  # the process was lost, and with it whoever would have freed the first
    judge.placed(task.name, "second")
    judge.post(task.name, {"loss": 0.5})
    news = judge.read()
    assert (news.facts, news.left) == ({task.name: {"loss": 0.5}}, ["first"])
    judge.leave(task.name)
    assert judge.read().left == ["second"]
    assert judge.read().left == []
