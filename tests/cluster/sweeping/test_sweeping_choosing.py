"""The values that trials get."""

import math
from pathlib import Path
from statistics import fmean

import pytest

from ray_diffusion.cluster.sweeping.choosing import CHOOSERS, Bayes
from ray_diffusion.cluster.sweeping.journal import Trial, trial_name
from ray_diffusion.config.sweep import Plan, load_sweep
from ray_diffusion.errors import UsageError

SPACE = """\
run_cap: 40
parameters:
  optim.lr: {min: 1e-5, max: 1e-1, distribution: log_uniform}
  model.depth: {min: 1, max: 9}
  model.channel_mults: {values: [[1, 2], [1, 2, 2], [2, 2]]}
  diffusion:
    values:
      - {beta_schedule: cosine}
      - {beta_schedule: linear}
      - {beta_schedule: linear, num_train_timesteps: 250, scale_betas: false}
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return planned(tmp_path, f"method: bayes\n{SPACE}")


def planned(tmp_path: Path, text: str) -> Plan:
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    return load_sweep(file)


def badness(values: dict[str, object]) -> float:
    """The smaller the nearer to lr 1e-3, and to one of the three schedules."""
    lr = values["optim.lr"]
    assert isinstance(lr, float)
    return abs(math.log10(lr) + 3) + (values["diffusion.num_train_timesteps"] != 250)


def finished(number: int, values: dict[str, object]) -> Trial:
    curve = {64_000: badness(values)}
    return Trial(trial_name(number), values, state="finished", curve=curve)


def searched(plan: Plan, count: int) -> list[Trial]:
    chooser, trials = Bayes(plan, []), list[Trial]()
    for number in range(count):
        trials.append(finished(number, chooser.values(number)))
        chooser.tell(trials[-1])
    return trials


@pytest.mark.parametrize("method", ["grid", "random"])
def test_a_grid_and_a_random_search_choose_what_the_plan_says(tmp_path: Path, method: str):
    text = f"method: {method}\nrun_cap: 4\nparameters:\n  optim.lr: {{values: [1e-3, 1e-4]}}\n"
    plan = planned(tmp_path, text)
    chooser = CHOOSERS[method](plan, [])
    assert [chooser.values(n) for n in range(2)] == [plan.values(n) for n in range(2)]


def test_each_proposal_is_a_trial_of_the_space(plan: Plan):
    for trial in searched(plan, 12):
        values = trial.values
        config = plan.trial(values)
        assert list(values) == list(plan.space)
        assert 1e-5 <= config.optim.lr <= 0.1
        assert 1 <= config.model.depth <= 9
        assert values["model.channel_mults"] in ([1, 2], [1, 2, 2], [2, 2])
        if config.diffusion.num_train_timesteps == 250:
            assert not config.diffusion.scale_betas
            assert config.diffusion.beta_schedule == "linear"


def test_later_proposals_are_better_than_the_first_which_are_drawn_blindly(plan: Plan):
    found = [badness(dict(trial.values)) for trial in searched(plan, 40)]
    assert fmean(found[-10:]) < 0.5 * fmean(found[:10])


def test_a_search_that_was_interrupted_goes_on_with_the_same_proposals(plan: Plan):
    whole = searched(plan, 15)
    chooser = Bayes(plan, whole[:12])
    for number in (12, 13, 14):
        assert chooser.values(number) == whole[number].values
        chooser.tell(whole[number])


def test_an_interrupted_trial_counts_as_before_although_its_process_is_new(plan: Plan):
    trials = searched(plan, 12)
    beside = Bayes(plan, trials)
    running = beside.values(12)
    again = Bayes(plan, [*trials, Trial(trial_name(12), running)])
    assert again.values(13) == beside.values(13)


def test_no_proposal_is_made_twice_at_once(plan: Plan):
    chooser = Bayes(plan, [])
    rates = {chooser.values(number)["optim.lr"] for number in range(20)}
    assert len(rates) == 20


def test_stopped_trials_teach_and_failed_ones_do_not(plan: Plan):
    stopped = [
        Trial(one.name, one.values, state="stopped", curve={7_040: badness(dict(one.values))})
        for one in searched(plan, 10)
    ]
    failed = [Trial(one.name, one.values, state="failed") for one in stopped]
    blind = Bayes(plan, []).values(30)
    assert Bayes(plan, failed).values(30) == blind
    assert Bayes(plan, stopped).values(30) != blind


def test_what_a_stopped_trial_reached_matters(plan: Plan):
    trials = searched(plan, 20)

    def proposal(sign: int) -> dict[str, object]:
        curves = [{7_040: sign * badness(dict(one.values))} for one in trials]
        stopped = [
            Trial(one.name, one.values, state="stopped", curve=curve)
            for one, curve in zip(trials, curves, strict=True)
        ]
        return Bayes(plan, stopped).values(30)

    assert badness(proposal(1)) < badness(proposal(-1))


def test_a_trial_that_runs_moves_those_beside_it_elsewhere(plan: Plan):
    trials = searched(plan, 12)
    values = Bayes(plan, trials).values(12)
    beside = Bayes(plan, [*trials, Trial(trial_name(12), values)])
    failed = Bayes(plan, [*trials, Trial(trial_name(12), values, state="failed")])
    assert beside.values(13) != failed.values(13)


def test_a_log_uniform_range_is_first_drawn_by_its_decades(plan: Plan):
    rates = [Bayes(plan, []).values(number)["optim.lr"] for number in range(100)]
    below = sum(rate < 1e-3 for rate in rates)  # half of the four decades
    assert below == pytest.approx(50, abs=4.5 * math.sqrt(100) / 2)


@pytest.mark.parametrize("value", [math.nan, None])
def test_a_finished_trial_without_a_figure_does_not_end_the_search(plan: Plan, value: float | None):
    curve = {} if value is None else {64_000: value}
    odd = Trial(trial_name(0), Bayes(plan, []).values(0), state="finished", curve=curve)
    assert Bayes(plan, [odd]).values(1)["optim.lr"] > 0


def test_values_that_break_a_rule_between_keys_are_proposed_again(tmp_path: Path):
    text = "method: bayes\nrun_cap: 9\nparameters:\n  model.channels: {min: 8, max: 64}\n"
    chooser = Bayes(planned(tmp_path, text), [])
    assert all(chooser.values(number)["model.channels"] % 8 == 0 for number in range(5))


def test_a_space_in_which_every_trial_breaks_a_rule_is_refused(tmp_path: Path):
    text = "method: bayes\nrun_cap: 9\nparameters:\n  model.channels: {min: 9, max: 15}\n"
    with pytest.raises(UsageError, match=r"in a row break a rule.*must be a multiple of 8"):
        Bayes(planned(tmp_path, text), []).values(0)
