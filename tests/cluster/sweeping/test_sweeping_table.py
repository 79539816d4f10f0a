"""How a sweep gets on, as a person sees it."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from some_findings import Clock, findings, trial
from terminal import Terminal

from ray_diffusion.cluster.sweeping.findings import Findings
from ray_diffusion.cluster.sweeping.journal import Trial
from ray_diffusion.cluster.sweeping.table import Screen, block, event, header, lines
from ray_diffusion.config import override
from ray_diffusion.config.space import Parameter
from ray_diffusion.evaluation.verdict import verdict

COSINE = {"diffusion.beta_schedule": "cosine", "optim.lr": 0.0003}
LINEAR = {"diffusion.beta_schedule": "linear", "optim.lr": 0.00123456}
FACTS = {
    "trial-0000": {
        "images_seen": 250,
        "total_images": 1_000,
        "loss": 0.1,
        "images_per_second": 12.5,
        "data_wait_fraction": 0.0,
    }
}


def five(**more: Any) -> Findings:
    return findings(
        trial(0, curve={110: 0.25}, values=LINEAR),
        trial(1, "finished", {110: 0.3, 1_000: 0.1141}, COSINE),
        trial(2, "stopped", {110: 0.5}, COSINE),
        trial(3, "failed", values=LINEAR, reason="no room\nat all"),
        trial(4, values=COSINE),
        **more,
    )


def test_the_table_says_how_each_trial_gets_on_the_best_first():
    found = five(seconds=724, budget={"hours": 1})
    assert lines(found, FACTS, 120, 40) == [
        "lr: 1 running, 4 waiting, 1 finished, 1 stopped, 1 failed of 8 · 12:04 · budget left 80% "
        "· images saved 42%",
        "trial       state     done  images/s  left  val/score  beta_schedule        lr",
        "trial-0001  finished  100%                     0.1141  cosine           0.0003",
        "trial-0000  running    25%        12  1:00       0.25  linear         0.001235",
        "trial-0002  stopped    11%                        0.5  cosine           0.0003",
        "trial-0003  failed      0%                             linear         0.001235",
        "trial-0004  waiting     0%                             cosine           0.0003",
    ]


def test_before_the_first_trial_there_is_something_to_say():
    assert lines(findings(), {}, 120, 40) == [
        "lr: 8 waiting of 8 · 0 s",
        "trial  state  done  images/s  left  val/score  beta_schedule  lr",
    ]


def test_a_budget_that_is_overdrawn_has_nothing_left():
    assert "budget left 0%" in header(findings(seconds=7_200, budget={"hours": 1}), {})


def test_trials_of_the_confirmation_stand_below():
    repeats = [
        Trial(f"trial-0001-seed-{seed}", COSINE, repeats="trial-0001", curve={1_000: 0.1 * seed})
        for seed in (2, 1)
    ]
    found = five()
    shown = lines(replace(found, trials=[*repeats, *found.trials]), FACTS, 60, 40)
    assert len(shown) == 2 + 5 + 1 + 2
    assert shown[7] == "confirmation"
    assert [line[:40] for line in shown[8:]] == [
        "trial-0001-seed-1  waiting   100%       ",
        "trial-0001-seed-2  waiting   100%       ",
    ]


def test_where_trials_have_no_room_the_middle_is_left_out():
    found = findings(*(trial(n, "finished", {1_000: float(n)}) for n in range(60)), run_cap=60)
    shown = [line.partition(" ")[0] for line in lines(found, {}, 80, 9)]
    assert shown[2:] == [f"trial-{n:04d}" for n in (0, 1, 2)] + ["…"] + [
        f"trial-{n:04d}" for n in (57, 58, 59)
    ]
    assert lines(found, {}, 80, 9)[5] == "… 54 more"
    assert len(lines(found, {}, 80, 62)) == 62
    assert "more" not in " ".join(lines(found, {}, 80, 62))
    assert lines(found, {}, 80, 61)[31] == "… 2 more"
    assert [line[:10] for line in lines(found, {}, 80, 4)[2:]] == ["trial-0000", "… 59 more"]


def test_the_confirmation_is_seen_whatever_the_search_takes():
    own = [trial(n, "finished", {1_000: float(n)}) for n in range(60)]
    repeat = Trial("trial-0000-seed-1", {}, repeats="trial-0000")
    shown = lines(findings(*own, repeat, run_cap=60), {}, 80, 7)
    assert [line.partition(" ")[0] for line in shown[2:]] == [
        "trial-0000",
        "…",
        "trial-0059",
        "confirmation",
        "trial-0000-seed-1",
    ]


def test_a_key_whose_last_part_is_not_its_own_is_shown_whole():
    space = {key: Parameter(values=(0, 1)) for key in ("run.seed", "sampler.seed", "optim.lr")}
    values = dict.fromkeys(space, 1)
    shown = lines(findings(trial(0, values=values), space=space), {}, 120, 40)
    assert shown[1].endswith("run.seed  sampler.seed  lr")
    assert shown[2].endswith("       1             1   1")


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "null"), (True, "true"), ((1, 2), "[1, 2]"), ("v", "v"), (1e-5, "1e-05"), (2.0, "2")],
)
def test_values_are_written_as_a_config_has_them(value: Any, text: str):
    space = {"optim.lr": Parameter(values=(value, 0.5))}
    shown = lines(findings(trial(0, values={"optim.lr": value}), space=space), {}, 120, 40)
    assert shown[2].split(maxsplit=3)[3] == text


def test_numbers_stand_to_the_right_and_words_to_the_left():
    words = {"ema.power_of_it": True, "data.augmentations": "flip"}
    numbers = {"optim.learning_rate": 0.1, "model.channels": 8}
    space = {key: Parameter(values=(0, 1)) for key in words | numbers}
    shown = lines(findings(trial(0, values=words | numbers), space=space), {}, 120, 40)
    assert shown[1].endswith("  power_of_it  augmentations  learning_rate  channels")
    assert shown[2].endswith("  true         flip                     0.1         8")


@pytest.mark.parametrize("speed", [0.0, math.nan])
def test_a_trial_without_a_speed_has_no_time_left(speed: float):
    facts = {"trial-0000": {"images_seen": 500, "images_per_second": speed}}
    shown = lines(findings(trial(0, curve={100: math.nan})), facts, 120, 40)
    assert shown[2].split() == ["trial-0000", "running", "50%", "nan", "0.001"]


def test_a_trial_that_varies_how_long_it_trains_goes_by_its_own_length():
    own = trial(0, "stopped", {500: 0.5}, {"training.total_images": 2_000})
    assert " 25% " in lines(findings(own), {}, 120, 40)[2]
    assert event(own, findings(own)).startswith("trial-0000 stopped at 25%: val/score 0.5 ")


FIGURES = st.floats(allow_nan=True) | st.integers(0, 5)
TRIALS = st.builds(
    Trial,
    st.integers(0, 99).map("trial-{:04d}".format),
    st.fixed_dictionaries(
        {},
        optional={
            "diffusion.beta_schedule": st.sampled_from(["linear", "cosine", "squaredcos_cap_v2"]),
            "optim.lr": st.none() | FIGURES,
        },
    ),
    repeats=st.none() | st.just("trial-0000"),
    state=st.sampled_from(["running", "finished", "stopped", "failed"]),
    curve=st.dictionaries(st.integers(1, 1_000), FIGURES, max_size=3),
    seconds=st.floats(0, 1e5),
)
POSTED = st.fixed_dictionaries(
    {}, optional={"images_seen": st.integers(0, 1_000), "images_per_second": st.floats(0.01, 1e6)}
)


@given(
    st.lists(TRIALS, max_size=12, unique_by=lambda t: t.name),
    st.lists(POSTED, min_size=12, max_size=12),
    st.sampled_from([1, 40, 80, 200]),
    st.integers(1, 20),
)
def test_whatever_happens_the_table_keeps_to_its_room(
    trials: list[Trial], posted: list[dict[str, Any]], width: int, height: int
):
    facts = {t.name: said for t, said in zip(trials, posted, strict=False)}
    found = findings(*trials, run_cap=100)
    shown = lines(found, facts, width, height)
    assert len(shown) <= height
    assert all(len(line) <= width and line == line.rstrip() for line in shown)
    whole = lines(found, facts, 1_000, 100)
    assert sum(line.startswith("trial-") for line in whole) == len(trials)
    columns = [i for i, char in enumerate(whole[1]) if whole[1][i - 1 : i + 1] == " s"]
    assert all(line[columns[0] - 1] == " " for line in whole[2:] if line.startswith("trial-"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """What a table may take of the terminal."""
    monkeypatch.setenv("COLUMNS", "101")
    monkeypatch.setenv("LINES", "25")
    return 100, 24


def test_on_a_terminal_the_table_is_redrawn_once_a_second(
    room: tuple[int, int], clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    screen = Screen(clock=clock)
    screen.show(findings(), {})
    screen.show(findings(trial(0)), {})
    assert terminal.screen == lines(findings(), {}, *room)
    clock.now += 1
    screen.show(findings(trial(0)), {})
    assert terminal.screen == lines(findings(trial(0)), {}, *room)
    screen.clear()
    assert terminal.screen == []


def test_on_a_terminal_failures_stay_above_the_table(
    room: tuple[int, int], clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    screen, found = Screen(clock=clock), five()
    screen.show(found, FACTS)
    clock.now += 1
    screen.show(found, FACTS)
    first, *others = terminal.screen
    assert first == (
        "trial-0003 failed: no room · diffusion.beta_schedule=linear optim.lr=0.001235"
    )
    assert others == lines(found, FACTS, *room)


def test_elsewhere_who_begins_and_ends_is_told_at_once_and_the_rest_once_a_minute(
    capsys: pytest.CaptureFixture[str], clock: Clock
):
    screen, lr = Screen(clock=clock), "optim.lr=0.001"
    ended = [trial(0, "stopped", {110: 0.5}), trial(1, "finished", {1_000: 0.25})]
    screen.show(findings(), {})
    screen.show(findings(trial(0)), {})
    for _ in range(2):
        screen.show(findings(trial(0)), FACTS)
    clock.now += 59
    screen.show(findings(*ended, seconds=59), {})
    clock.now += 1
    screen.show(findings(*ended, seconds=60), {})
    assert capsys.readouterr().err.splitlines() == [
        "lr: 8 waiting of 8 · 0 s",
        f"trial-0000 started · {lr}",
        f"trial-0000 stopped at 11%: val/score 0.5 · {lr}",
        f"trial-0001 finished: val/score 0.25 (best so far) · {lr}",
        "lr: 6 waiting, 1 finished, 1 stopped of 8 · 1:00 · images saved 44%",
    ]


def test_what_was_over_before_this_launch_is_no_news(
    capsys: pytest.CaptureFixture[str], clock: Clock
):
    before = [trial(0, "finished", {1_000: 0.5}), trial(1, curve={100: 0.5})]
    screen = Screen(before, clock)
    facts = {"trial-0001": {"images_seen": 150}}
    screen.show(findings(*before), facts)
    ended = trial(1, "finished", {1_000: 0.75})
    screen.show(findings(before[0], ended), {})
    assert capsys.readouterr().err.splitlines() == [
        "trial-0001 goes on at 10% · optim.lr=0.001",
        "lr: 1 running, 6 waiting, 1 finished of 8 · 0 s",
        "trial-0001 finished: val/score 0.75 · optim.lr=0.001",
    ]


def test_a_trial_that_measured_nothing_says_so():
    own = trial(0, "finished")
    assert event(own, findings()) == "trial-0000 finished: no val/score · optim.lr=0.001"
    zero = trial(0, "finished", {1_000: 0.0})
    assert event(zero, findings()) == "trial-0000 finished: val/score 0 · optim.lr=0.001"


def test_the_last_lines_say_what_came_out_and_what_to_do_next():
    found = five(seconds=3_723, resources={"cpus_per_worker": 2}, run_cap=5)
    for each in found.trials:
        each.seconds = 1_800
    first = found.trials[1]
    first.figures = {"sample/fd": 3.25, "val/score": 0.1141}
    said = verdict("sample/fd", {"trial-0001": [3.0, 3.5]})
    assert block(replace(found, verdict=said, left=2)).splitlines() == [
        "status     2 waiting, 1 finished, 1 stopped, 1 failed of 5 trials",
        "failed     trial-0003: no room",
        "spent      1:02:03, 5.00 CPU-hours",
        "saved      890 images (42%), by stopping trials early",
        "winner     trial-0001: diffusion.beta_schedule=cosine optim.lr=0.0003",
        "figures    val/score 0.1141, sample/fd 3.25",
        f"verdict    {said.text}",
        "report     memory://runs/lr/report.html",
        "look       python -m ray_diffusion.sample memory://runs/lr/trial-0001 num_images=64",
        "measure    python -m ray_diffusion.evaluate memory://runs/lr/trial-0001",
        "continue   python -m ray_diffusion.sweep lr.yaml",
    ]


def test_the_last_lines_of_autoencoders_say_how_to_encode_with_the_best():
    found = findings(trial(0, "finished", {1_000: 0.5}, {"model.channels": 16}), run_cap=1)
    base = override(found.plan.base, {"model.kind": "autoencoder", "data.image_size": 32})
    *_, report, encode = block(replace(found, plan=replace(found.plan, base=base))).splitlines()
    assert report.startswith("report ")
    assert encode == (
        "encode     python -m ray_diffusion.encode source=builtin:digits image_size=32 "
        "codec=memory://runs/lr/trial-0000 out=datasets/latents"
    )


def test_the_images_to_encode_are_those_of_the_best_trial():
    values = {"model.kind": "autoencoder", "data.dataset_url": "their datasets/b"}
    said = block(findings(trial(0, "finished", {1_000: 0.5}, values)))
    assert "source='their datasets/b' codec=" in said
    assert "image_size" not in said


def test_a_sweep_that_is_over_has_nothing_to_go_on_with():
    found = findings(trial(0, "finished", {1_000: 0.5}), run_cap=1)
    assert "continue" not in block(found)


def test_without_a_finished_trial_the_last_lines_say_that_and_no_more():
    failed = [trial(n, "failed", reason=f"reason {n}") for n in range(5)]
    found = findings(*failed, seconds=3_600, budget={"hours": 1})
    assert block(replace(found, left=2)).splitlines() == [
        "status     3 waiting, 5 failed of 8 trials, the budget is used up",
        "failed     trial-0000: reason 0; trial-0001: reason 1; trial-0002: reason 2; and 2 more",
        "spent      1:00:00",
        "winner     none: no trial has finished",
        "report     memory://runs/lr/report.html",
        "continue   python -m ray_diffusion.sweep lr.yaml",
    ]
