"""A process that stands still, watched by itself."""

import subprocess
import sys
from typing import Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_diffusion.cluster.stall import IN_A_PAUSE, PAUSED_BEATS, USUAL_STEPS, Pulse

PROGRAM = """
import sys, threading
from ray_diffusion.cluster import stall

now, looks = 0.0, 0

class Pulse(stall.Pulse):
    def __init__(self, timeout_s):
        super().__init__(timeout_s, lambda: now)

    def is_lost(self):
        global looks
        looks += 1
        return super().is_lost()

stall.Pulse, stall.TELLING_S = Pulse, 0.1

def tells(stacks):
    print(stacks, flush=True)

def fails(stacks):
    raise OSError("the storage is away")

def hangs(stacks):
    threading.Event().wait()

def waits_for_a_sum():
    threading.Event().wait()

with stall.watched(0.2, globals()[sys.argv[1]]) as pulse:
    for _ in range(stall.PAUSED_BEATS):
        now += 0.01
        pulse.beat()
    while looks < 5:
        now += 0.01
        pulse.beat()
    print("moves", flush=True)
    if sys.argv[2] == "hangs":
        now += 0.21
        waits_for_a_sum()
print("ended")
"""


def run(on_stall: str, ending: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, on_stall, ending],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_process_that_moves_is_left_alone():
    done = run("tells", "ends")
    assert (done.returncode, done.stdout) == (0, "moves\nended\n")


def test_a_process_that_stands_still_tells_where_and_ends():
    done = run("tells", "hangs")
    assert done.returncode == 1
    assert done.stdout.startswith("moves\n")
    assert "in waits_for_a_sum" in done.stdout


@pytest.mark.parametrize("on_stall", ["fails", "hangs"])
def test_it_ends_also_when_nobody_can_be_told(on_stall: str):
    done = run(on_stall, "hangs")
    assert (done.returncode, done.stdout) == (1, "moves\n")


TIMEOUT_S = 60


class Timed:
    """A pulse, and the clock that it sees."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pulse = Pulse(TIMEOUT_S, lambda: self.now)

    def steps(self, count: int, seconds: float) -> Self:
        for _ in range(count):
            self.pulse.beat()
            self.now += seconds
            assert not self.pulse.is_lost()
        return self

    def patience(self) -> float:
        """Whole seconds that the next step may take."""
        self.pulse.beat()
        begun = self.now
        while not self.pulse.is_lost():
            self.now += 1
        found, self.now = self.now - begun - 1, begun
        return found


@pytest.fixture
def quick() -> Timed:
    """In the midst of steps of a second."""
    return Timed().steps(20, 1)


def test_quick_steps_may_take_as_long_as_the_timeout(quick: Timed):
    assert quick.patience() == TIMEOUT_S


@given(st.integers(TIMEOUT_S, IN_A_PAUSE * TIMEOUT_S))
def test_slow_steps_may_take_five_times_as_long_as_usual(seconds: int):
    assert Timed().steps(20, seconds).patience() == USUAL_STEPS * seconds


def test_one_slow_step_does_not_make_the_usual_one_slow(quick: Timed):
    quick.steps(1, TIMEOUT_S)
    assert quick.steps(3, 1).patience() == TIMEOUT_S


@given(
    st.floats(0, IN_A_PAUSE * TIMEOUT_S),
    st.floats(0.01, IN_A_PAUSE * TIMEOUT_S),
    st.lists(st.floats(0, 1), max_size=40),
)
def test_neither_slow_steps_nor_pauses_are_taken_for_a_standstill(
    start: float, each: float, pauses: list[float]
):
    timed = Timed()
    timed.now = start
    for share in pauses:
        timed.steps(PAUSED_BEATS, each)
        timed.pulse.pause()
        timed.now += share * (IN_A_PAUSE * TIMEOUT_S - each)
        assert not timed.pulse.is_lost()


def test_the_first_steps_may_take_three_times_as_long():
    for before in range(PAUSED_BEATS - 1):
        assert Timed().steps(before, 1).patience() == IN_A_PAUSE * TIMEOUT_S
    assert Timed().steps(PAUSED_BEATS - 1, 1).patience() == TIMEOUT_S


def test_a_pause_lasts_until_the_last_worker_has_heard_of_its_end():
    for after in range(PAUSED_BEATS - 1):
        timed = Timed().steps(20, 1)
        timed.pulse.pause()
        assert timed.steps(after, 1).patience() == IN_A_PAUSE * TIMEOUT_S
    timed = Timed().steps(20, 1)
    timed.pulse.pause()
    assert timed.steps(PAUSED_BEATS - 1, 1).patience() == TIMEOUT_S


def test_a_process_that_begins_or_pauses_for_too_long_is_lost_too(quick: Timed):
    timed = Timed()
    for one in (quick, timed):
        one.pulse.pause()
        one.now += IN_A_PAUSE * TIMEOUT_S + 1
        assert one.pulse.is_lost()
        one.pulse.pause()  # is no beat
        assert one.pulse.is_lost()
