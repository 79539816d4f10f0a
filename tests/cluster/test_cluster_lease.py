"""Two launches of one run: in directories of any kind, on one machine and on several."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from chaos_proxy import ChaosProxy
from local_cluster import wait_for

from ray_diffusion.cluster import holder
from ray_diffusion.cluster.lease import FILE, held
from ray_diffusion.errors import UsageError
from ray_diffusion.storage import Directory

pytest_plugins = ["object_store"]
# botocore and moto call what newer Pythons deprecate.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

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


def test_a_lease_says_who_trains_and_goes_with_the_training(run: Directory):
    assert run.names() == []
    with held(run, pytest.fail, BRISK_S):
        said = kept(run)
        assert said is not None
        assert (said["pid"], said["run"]) == (os.getpid(), run.url)
    assert run.names() == []


def test_a_lease_goes_with_a_training_that_fails(run: Directory):
    with pytest.raises(ZeroDivisionError), held(run, pytest.fail, BRISK_S):
        _ = 1 / 0
    assert run.names() == []


def test_a_lease_is_renewed_and_written_again_where_someone_deleted_it(run: Directory):
    with held(run, pytest.fail, BRISK_S):
        first = kept(run)
        wait_for(lambda: kept(run) != first, "a renewal")
        run.remove(FILE)
        wait_for(lambda: run.read(FILE), "a new lease")
        last = kept(run)
    assert first is not None
    assert last is not None
    assert last["beat"] > first["beat"]
    assert last | {"beat": 0} == first | {"beat": 0}


def test_a_second_launch_on_this_machine_is_refused_at_once_by_the_holders_name(local: Directory):
    with launched(local, NEVER_S) as first:
        assert first.says() == "held"
        said = kept(local)
        assert said is not None
        assert refusal(local, NEVER_S) == (
            f"run 'digits' is being trained by {said['user']}@{said['host']}, "
            f"process {first.process.pid}, since {said['since']} (lease {local.url}/{FILE}); "
            "wait for it, stop it, or choose another run.name"
        )
        assert kept(local) == said
        first.go_on()
        assert first.says() == "released"
    with held(local, pytest.fail, NEVER_S):
        pass


@pytest.mark.parametrize("reaped", [False, True])
def test_the_run_of_a_killed_launch_goes_on_at_once_on_its_machine(local: Directory, reaped: bool):
    with launched(local, NEVER_S) as first:
        assert first.says() == "held"
        first.kill()
        if reaped:
            first.process.wait()
        with held(local, pytest.fail, NEVER_S):
            said = kept(local)
            assert said is not None
            assert said["pid"] == os.getpid()


def test_a_process_that_got_the_id_of_a_dead_one_is_not_taken_for_it(local: Directory):
    local.write(FILE, dead(local))
    with held(local, pytest.fail, NEVER_S):
        pass


def test_another_users_process_is_alive(local: Directory, monkeypatch: pytest.MonkeyPatch):
    def not_ours(pid: int, number: int) -> None:
        raise PermissionError

    with held(local, pytest.fail, NEVER_S), monkeypatch.context() as patch:
        patch.setattr(os, "kill", not_ours)
        assert "is being trained by" in refusal(local, NEVER_S)


class Watched(Directory):
    """Counts how often it is read."""

    reads = 0

    def read(self, name: str) -> bytes | None:
        self.reads += 1
        return super().read(name)


@pytest.mark.usefixtures("elsewhere")
def test_a_launch_on_another_machine_is_watched_and_refused_while_it_lives(
    shared: Directory, capfd: pytest.CaptureFixture[str]
):
    with launched(shared, BRISK_S, "that machine", "jumps") as first:
        assert first.says() == "held"
        watched = Watched(shared.url)
        assert f"process {first.process.pid}" in refusal(watched, beat_s=2.5)
        assert watched.reads < 20  # looks of four beats: it did not wait for all of them
        [line] = capfd.readouterr().err.splitlines()
        assert line.startswith("run 'digits' was being trained by ")
        assert line.endswith("; waiting up to 10 s to see whether it still is")
        assert first.process.poll() is None


@pytest.mark.usefixtures("elsewhere")
def test_the_run_of_a_launch_that_died_on_another_machine_goes_on(
    shared: Directory, monkeypatch: pytest.MonkeyPatch
):
    hours = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: 3600.0 * next(hours))
    with launched(shared, BRISK_S, "that machine", "jumps") as first:
        assert first.says() == "held"
        first.kill()
        with held(shared, pytest.fail, BRISK_S):
            said = kept(shared)
            assert said is not None
            assert said["pid"] == os.getpid()


def test_where_the_system_does_not_tell_machines_apart_launches_are_watched(
    local: Directory, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(holder, "BOOT_ID", Path("/nowhere"))
    with held(local, pytest.fail, BRISK_S):
        assert f"process {os.getpid()}" in refusal(local, beat_s=2.5)
    assert "waiting up to 10 s" in capfd.readouterr().err


def test_a_process_that_is_hidden_is_watched(
    local: Directory, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    with launched(local, BRISK_S) as first:
        assert first.says() == "held"
        ours = holder._state_and_start(os.getpid())

        def hidden(pid: int) -> tuple[str, int]:
            if pid != os.getpid():
                raise FileNotFoundError
            return ours

        monkeypatch.setattr(holder, "_state_and_start", hidden)
        assert f"process {first.process.pid}" in refusal(local, beat_s=2.5)
    assert "waiting up to 10 s" in capfd.readouterr().err


@pytest.mark.usefixtures("elsewhere")
def test_a_launch_that_ends_while_it_is_watched_is_no_obstacle(local: Directory):
    with launched(local, NEVER_S, "that machine") as first:
        assert first.says() == "held"
        watching = threading.Timer(0.1, first.go_on)
        watching.start()
        with held(local, pytest.fail, beat_s=1.0):
            watching.join()
            assert first.says() == "released"


@pytest.mark.usefixtures("elsewhere")
def test_a_suspended_launch_that_comes_back_learns_who_took_its_run(shared: Directory):
    with launched(shared, 0.5, "that machine") as first:
        assert first.says() == "held"
        written = shared.read(FILE)
        wait_for(lambda: shared.read(FILE) != written, "a renewal")
        # Stopped now, as it does nothing for half a second.
        first.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, first.process.pid, os.WSTOPPED | os.WNOWAIT)
        with held(shared, pytest.fail, BRISK_S):
            first.process.send_signal(signal.SIGCONT)
            lost = first.says()
            assert lost.startswith("lost run 'digits' was taken over by ")
            assert f"process {os.getpid()}, since" in lost
            first.go_on()
            assert first.says() == "released"
            said = kept(shared)
            assert said is not None
            assert said["pid"] == os.getpid()
        assert shared.names() == []


def test_of_launches_that_start_at_once_in_a_local_directory_one_trains(local: Directory):
    launches = [Launch(local, NEVER_S) for _ in range(5)]
    for launch in launches:
        launch.go_on()
    words = [launch.says().split()[0] for launch in launches]
    for launch in launches:
        launch.process.communicate()
    assert Counter(words) == {"held": 1, "refused": 4}


def race(run: Directory, beat_s: float, together_at: str) -> Counter[str]:
    """What becomes of four launches that are all about to "read" or to "write" first."""
    together, all_told = threading.Barrier(4, timeout=60), threading.Barrier(4, timeout=60)

    class Racing(Directory):
        waiting = True

        def wait(self, at: str) -> None:
            if self.waiting and at == together_at:
                self.waiting = False
                together.wait()

        def read(self, name: str) -> bytes | None:
            found = super().read(name)
            self.wait("read")
            return found

        def write(self, name: str, content: str | bytes) -> None:
            self.wait("write")
            super().write(name, content)

    def launch(_: int) -> str:
        try:
            with held(Racing(run.url), pytest.fail, beat_s):
                all_told.wait()
                return "held"
        except UsageError:
            all_told.wait()
            return "refused"

    with ThreadPoolExecutor(4) as pool:
        return Counter(pool.map(launch, range(4)))


@pytest.fixture
def _no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on NFS."""

    def refuse(file: int, operation: int) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_of_launches_that_all_find_no_holder_one_trains(local: Directory):
    assert race(local, NEVER_S, "read") == {"held": 1, "refused": 3}
    assert local.names() == []


@pytest.mark.usefixtures("_no_locks")
@pytest.mark.parametrize("left_over", [False, True])
def test_of_launches_that_all_write_a_lease_the_last_one_trains(run: Directory, left_over: bool):
    if left_over:
        run.write(FILE, dead(run))
    assert race(run, 2.5, "write") == {"held": 1, "refused": 3}
    assert run.names() == []


@pytest.mark.usefixtures("_no_locks")
def test_a_launch_whose_lease_was_long_under_way_has_the_run_and_the_other_learns_it(
    run: Directory,
):
    lost: list[str] = []
    with ExitStack() as meanwhile:

        class Slow(Directory):
            written = False

            def write(self, name: str, content: str | bytes) -> None:
                if not self.written:
                    self.written = True
                    meanwhile.enter_context(held(run, lost.append, BRISK_S))
                super().write(name, content)

        with held(Slow(run.url), pytest.fail, beat_s=1.0):
            wait_for(lambda: lost, "the news")
    assert len(lost) == 1
    assert run.names() == []


@pytest.mark.parametrize("content", [b"", b"[]", b'{"version": 2}', b"\xff"])
def test_a_lease_that_cannot_be_read_is_watched_like_any_other(
    local: Directory, content: bytes, capfd: pytest.CaptureFixture[str]
):
    local.write(FILE, content)
    with held(local, pytest.fail, BRISK_S):
        pass
    assert "by another process (lease " in capfd.readouterr().err


def test_a_copy_of_a_runs_directory_is_another_run(local: Directory, tmp_path: Path):
    with held(local, pytest.fail, NEVER_S):
        copy = Directory(f"{tmp_path}/runs/copy")
        copy.write(FILE, local.read(FILE) or b"")
        with held(copy, pytest.fail, BRISK_S):
            assert kept(copy) != kept(local)


def test_a_lease_of_an_unknown_kind_is_another_launchs(local: Directory):
    lost: list[str] = []
    with held(local, lost.append, BRISK_S):
        local.write(FILE, "written by a later version")
        wait_for(lambda: lost, "the news")
    assert lost[0].startswith("run 'digits' was taken over by another process (lease ")
    assert local.read(FILE) == b"written by a later version"


def test_a_storage_that_fails_for_a_while_is_warned_of_once_and_loses_nothing(
    bucket: str, proxy: ChaosProxy, capfd: pytest.CaptureFixture[str]
):
    run = Watched(f"{bucket}/runs/digits")
    said: list[str] = []
    with held(run, pytest.fail, BRISK_S):
        for _ in range(2):
            proxy.stop()
            wait_for(lambda: said.extend(capfd.readouterr().err.splitlines()) or said, "a warning")
            reads = run.reads
            wait_for(lambda: run.reads > reads + 2, "more beats")  # noqa: B023
            proxy.start()
            before = kept(run)
            wait_for(lambda: kept(run) != before, "a renewal")  # noqa: B023
            said.extend(capfd.readouterr().err.splitlines())
            [line] = said
            assert line.startswith(f"warning: cannot read {run.url}/{FILE}: Could not connect")
            assert line.endswith("; a launch on another machine would take this run over now")
            said.clear()
    assert run.names() == []


def test_a_storage_that_is_gone_at_the_end_spoils_no_result(
    bucket: str, proxy: ChaosProxy, capfd: pytest.CaptureFixture[str]
):
    with held(Directory(f"{bucket}/runs/digits"), pytest.fail, beat_s=1.0):
        proxy.stop()
    [line] = capfd.readouterr().err.splitlines()
    assert line.endswith("; the next launch may have to wait until this lease is stale")
