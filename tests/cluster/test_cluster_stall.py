"""A process that stands still, watched by itself."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys, threading
from ray_diffusion.cluster import stall

now, looks = 0.0, 0

def monotonic():
    global looks
    looks += threading.current_thread().name == "stall"
    return now

stall.time.monotonic, stall.TELLING_S = monotonic, 0.1

def tells(stacks):
    print(stacks, flush=True)

def fails(stacks):
    raise OSError("the storage is away")

def hangs(stacks):
    threading.Event().wait()

def waits_for_a_sum():
    threading.Event().wait()

with stall.watched(0.2, globals()[sys.argv[1]]) as beat:
    while looks < 5:
        now += 0.19
        beat()
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
