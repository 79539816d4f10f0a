"""Two launches of one run: in directories of any kind, on one machine and on several."""

# ruff: noqa: F811 # fixtures of another module are asked for by their names

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from chaos_proxy import ChaosProxy
from leased import BRISK_S, NEVER_S, dead, elsewhere, kept, launched, local, refusal, run, shared  # noqa: F401
from local_cluster import wait_for

from ray_diffusion.cluster import holder
from ray_diffusion.cluster.lease import FILE, held
from ray_diffusion.storage import Directory

pytest_plugins = ["object_store"]
# botocore and moto call what newer Pythons deprecate.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


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
