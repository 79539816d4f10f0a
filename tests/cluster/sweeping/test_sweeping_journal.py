"""What a sweep writes down of its trials, and reads again."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_diffusion.cluster.sweeping.journal import FILE, Journal, Trial, ranked, trial_name
from ray_diffusion.errors import UsageError
from ray_diffusion.storage import Directory


@pytest.fixture
def home(tmp_path: Path) -> Directory:
    return Directory(str(tmp_path / "sweep"))


def test_what_was_written_is_read_again(home: Directory):
    journal = Journal(home, "this sweep")
    journal.begin("a", {"optim.lr": 0.1})
    journal.report("a", 100, 0.5, True)
    journal.spend(2.0, ["a"])
    journal.begin("b", {"optim.lr": 0.2})
    journal.report("b", 100, 0.7, False)
    journal.spend(3.0, ["a", "b"])
    journal.report("a", 200, 0.4, True)
    journal.end("a", "finished", {"sample/fd": 1.5})
    journal.begin("a-seed-1", {"optim.lr": 0.1, "run.seed": 1}, "a")
    journal.end("a-seed-1", "failed", {}, "diverged")
    again = Journal(home, "this sweep")
    assert again.trials == journal.trials
    assert again.seconds == 5.0
    assert list(again.told()) == [("a", 100, 0.5), ("b", 100, 0.7), ("a", 200, 0.4)]
    assert again.trials["a"] == Trial(
        "a", {"optim.lr": 0.1}, None, "finished", {100: 0.5, 200: 0.4}, {"sample/fd": 1.5}, 5.0
    )
    assert (again.trials["b"].state, again.trials["b"].seconds) == ("stopped", 3.0)
    assert (again.trials["a-seed-1"].repeats, again.trials["a-seed-1"].reason) == ("a", "diverged")


def test_a_trial_that_begins_again_keeps_what_is_known(home: Directory):
    journal = Journal(home, "this sweep")
    journal.begin("a", {"optim.lr": 0.1})
    journal.report("a", 100, 0.5, True)
    written = home.read(FILE)
    journal.begin("a", {"optim.lr": 0.1})
    assert journal.trials["a"].curve == {100: 0.5}
    assert home.read(FILE) == written


def test_the_journal_of_another_sweep_is_refused(home: Directory):
    Journal(home, "this sweep")
    with pytest.raises(UsageError, match="holds another sweep"):
        Journal(home, "that sweep")


def test_totals_take_one_line_however_often_they_are_told(home: Directory):
    journal = Journal(home, "this sweep")
    for _ in range(50):
        journal.spend(0.5, ())
        journal.save()
    lines = [json.loads(line) for line in (home.read(FILE) or b"").splitlines()]
    assert lines == [{"sweep": "this sweep"}, {"seconds": 25.0, "by_trial": {}}]


def test_what_was_spent_is_written_with_whatever_happens_next(home: Directory):
    journal = Journal(home, "this sweep")
    journal.begin("a", {})
    journal.spend(2.0, ["a"])
    journal.end("a", "finished", {})
    again = Journal(home, "this sweep")
    assert (again.seconds, again.trials["a"].seconds) == (2.0, 2.0)


def test_whoever_only_reads_a_journal_writes_nothing(home: Directory):
    first = Journal(home, "this sweep")
    reader = Journal(home, "this sweep")
    first.begin("a", {})
    assert reader.trials == {}
    assert Journal(home, "this sweep").trials == first.trials


def test_a_figure_that_is_no_number_is_kept(home: Directory):
    journal = Journal(home, "this sweep")
    journal.begin("a", {})
    journal.report("a", 100, math.nan, True)
    assert math.isnan(Journal(home, "this sweep").trials["a"].curve[100])


def test_finished_trials_come_first_then_those_that_came_further():
    trials = [
        Trial("begun", {}),
        Trial("early", {}, state="stopped", curve={10: 0.1}),
        Trial("late", {}, state="stopped", curve={10: 0.9, 20: 0.8}),
        Trial("worse", {}, state="finished", curve={40: 0.6}),
        Trial("broken", {}, state="finished", curve={40: math.nan}),
        Trial("best", {}, state="finished", curve={10: 9.0, 40: 0.5}),
    ]
    names = [trial.name for trial in ranked(trials)]
    assert names == ["best", "worse", "broken", "late", "early", "begun"]


@given(st.permutations(range(6)))
def test_the_order_does_not_hang_on_who_was_told_first(order: list[int]):
    trials = [Trial(trial_name(n), {}, state="finished", curve={1: n // 2}) for n in range(6)]
    told = [trials[place] for place in order]
    assert ranked(told) == trials
