"""Launches in processes of their own, and directories of any kind for them to fight over."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from ray_diffusion.cluster import holder
from ray_diffusion.cluster.lease import FILE, held
from ray_diffusion.errors import UsageError
from ray_diffusion.storage import Directory

BRISK_S = 0.05  # a beat, of which four without a change are soon over
NEVER_S = 1e6  # a beat that no test lives to see: who waits for one hangs

LAUNCH = """
import sys, time
from ray_diffusion.cluster import holder
from ray_diffusion.cluster.lease import held
from ray_diffusion.errors import UsageError
from ray_diffusion.storage import Directory

def say(*words):
    print(*words, flush=True)

url, beat_s, machine, clock = sys.argv[1:]
if machine != "this":
    holder._machine = lambda: machine
if clock == "jumps":
    start, jumps = time.time(), iter(range(10**9))
    time.time = lambda: start + (3600 if next(jumps) % 2 else -3600)
say("ready")
sys.stdin.readline()
try:
    with held(Directory(url), lambda message: say("lost", message), float(beat_s)):
        say("held")
        sys.stdin.readline()
    say("released")
except UsageError as error:
    say("refused", error)
"""


class Launch:
    """A process that trains a run, or tries to.

    Args:
        run: Of this run.
        beat_s: Between renewals.
        machine: Where it believes to run.
        clock: Whether its clock "runs" or "jumps" by an hour each time that it is looked at.
    """

    def __init__(
        self, run: Directory, beat_s: float, machine: str = "this", clock: str = "runs"
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, run.url, str(beat_s), machine, clock],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.says() == "ready"

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def kill(self) -> None:
        """End it as no process can prevent; it stays a zombie."""
        self.process.kill()
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)


@contextmanager
def launched(run: Directory, beat_s: float, *how: str) -> Iterator[Launch]:
    launch = Launch(run, beat_s, *how)
    try:
        launch.go_on()
        yield launch
    finally:
        launch.process.kill()
        launch.process.communicate()


def kept(run: Directory) -> dict[str, Any] | None:
    """What the lease says."""
    content = run.read(FILE)
    return None if content is None else json.loads(content)


def refusal(run: Directory, beat_s: float) -> str:
    with pytest.raises(UsageError) as error, held(run, pytest.fail, beat_s):
        pass
    assert "\n" not in str(error.value)
    return str(error.value)


def dead(run: Directory) -> str:
    """A lease of a process of this machine that has been gone for long."""
    return replace(holder.Holder.here(run.url), started=-1).text()


@pytest.fixture
def local(tmp_path: Path) -> Directory:
    return Directory(f"{tmp_path}/runs/digits")


@pytest.fixture(params=["local", "memory", "s3"])
def run(request: pytest.FixtureRequest, local: Directory, tmp_path: Path) -> Iterator[Directory]:
    """A run's directory in each kind of storage."""
    if request.param == "s3":
        yield Directory(f"{request.getfixturevalue('bucket')}/runs/digits")
    elif request.param == "memory":
        yield Directory(f"memory://lease-tests/{tmp_path.name}/runs/digits")
        fsspec.filesystem("memory").rm("/lease-tests", recursive=True)
    else:
        yield local


@pytest.fixture(params=["local", "s3"])
def shared(request: pytest.FixtureRequest, local: Directory) -> Directory:
    """A run's directory where several processes reach it."""
    if request.param == "s3":
        return Directory(f"{request.getfixturevalue('bucket')}/runs/digits")
    return local


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process believes to run on another machine than those that it starts."""
    monkeypatch.setattr(holder, "_machine", lambda: "another machine")
