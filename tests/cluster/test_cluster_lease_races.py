"""Launches of one run that start at once: one trains."""

# ruff: noqa: F811 # fixtures of another module are asked for by their names

import errno
import fcntl
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from leased import BRISK_S, NEVER_S, Launch, dead, local, run  # noqa: F401
from local_cluster import wait_for

from ray_diffusion.cluster.lease import FILE, held
from ray_diffusion.errors import UsageError
from ray_diffusion.storage import Directory

pytest_plugins = ["object_store"]
# botocore and moto call what newer Pythons deprecate.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


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
