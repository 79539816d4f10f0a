"""Storage that fails while a run saves or resumes: the last whole checkpoint counts."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from chaos_proxy import ChaosProxy, Faults
from toy import BATCH, CPU, World

from ray_diffusion.config import Config
from ray_diffusion.errors import Preempted, StorageError
from ray_diffusion.storage import Directory
from ray_diffusion.training.checkpoint import name_of, newest_facts
from ray_diffusion.training.loop import loop

pytest_plugins = ["object_store"]
# botocore and moto call what newer Pythons deprecate.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

FIFTH, SIXTH, SEVENTH = (name_of(steps * BATCH) for steps in (5, 6, 7))


@dataclass
class Remote(World):
    """A world whose run is in an object store; its path only takes what is looked at."""

    url: str = ""

    @property
    def run(self) -> Directory:
        return Directory(self.url)

    def weights(self) -> dict[str, bytes]:
        newest = self.run.names()[-1]
        assert self.run.fetch(newest, self.path / newest) is None
        return super().weights()


@pytest.fixture
def remote(bucket: str, tmp_path: Path) -> Remote:
    return Remote(tmp_path, url=f"{bucket}/run")


@pytest.fixture
def stopped(run: Config, remote: Remote) -> Remote:
    """Stopped after 7 steps, with checkpoints after 6 and 7."""
    with pytest.raises(Preempted):
        remote.train(run, stop_after=7)
    return remote


def assert_same_end(world: World, undisturbed: World) -> None:
    assert world.weights() == undisturbed.weights()
    assert world.points == undisturbed.points
    assert all(before == after for before, after in world.twice)


def newest(run: Directory) -> str:
    found = newest_facts(run)
    assert found is not None
    return found[0]


def flipped(content: bytes | None) -> bytes:
    assert content
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@contextmanager
def one_line_of_exit_code_3() -> Iterator[pytest.ExceptionInfo[StorageError]]:
    with pytest.raises(StorageError) as error:
        yield error
    assert error.value.exit_code == 3
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", ["model.safetensors", "manifest.json"])
def test_an_upload_that_dies_midway_leaves_the_checkpoint_before_it(
    run: Config, undisturbed: World, remote: Remote, proxy: ChaosProxy, file: str
):
    proxy.faults = Faults(unavailable=1, only=f"PUT /bucket/run/{SIXTH}/{file} ")
    with one_line_of_exit_code_3() as error:
        remote.train(run)
    assert str(error.value).startswith(f"cannot write {remote.url}/{SIXTH}/{file}: ")
    assert newest(remote.run) == FIFTH
    proxy.faults = Faults()
    remote.train(run)
    assert_same_end(remote, undisturbed)
    assert not remote.warnings  # an unfinished checkpoint is no damage


def test_a_checkpoint_damaged_in_an_object_store_is_passed_over(
    run: Config, undisturbed: World, stopped: Remote
):
    name = f"{SEVENTH}/ema.safetensors"
    stopped.run.write(name, flipped(stopped.run.read(name)))
    stopped.train(run)
    assert_same_end(stopped, undisturbed)
    [warning] = stopped.warnings
    assert f"{SEVENTH} has a damaged ema.safetensors; it is passed over" in warning


@pytest.mark.parametrize("fault", ["flipped", "unavailable"])
def test_what_goes_wrong_on_the_way_here_is_no_fault_of_the_checkpoint(
    run: Config, undisturbed: World, proxy: ChaosProxy, stopped: Remote, fault: str
):
    newest_weights = f"GET /bucket/run/{SEVENTH}/model.safetensors "
    proxy.faults = Faults(**{fault: 1}, only=newest_weights)
    with one_line_of_exit_code_3():
        stopped.train(run)
    proxy.faults = Faults()
    assert newest(stopped.run) == SEVENTH
    stopped.train(run)
    assert_same_end(stopped, undisturbed)
    assert not stopped.twice  # it went on after step 7


def test_an_unfinished_checkpoint_takes_no_place_of_a_whole_one(
    run: Config, undisturbed: World, world: World
):
    with pytest.raises(Preempted):
        world.train(run, stop_after=7)
    (world.path / SEVENTH / "manifest.json").unlink()
    with pytest.raises(Preempted):
        world.train(run, stop_after=3)  # after 9 steps in all
    assert world.run.names() == [SIXTH, name_of(9 * BATCH)]
    shutil.rmtree(world.path / name_of(9 * BATCH))
    world.train(run)
    assert_same_end(world, undisturbed)


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from toy import World, configured

def halfway(source, target, copy=shutil.copyfile):
    if f"{sys.argv[3]}/model.safetensors" in str(target):
        Path(target).write_bytes(Path(source).read_bytes()[:1000])
        os.kill(os.getpid(), signal.SIGKILL)
    return copy(source, target)

shutil.copyfile = halfway
World(Path(sys.argv[1])).train(configured(Path(sys.argv[2])))
"""

# The run's directory, and it alone, is on a disk with room for two checkpoints, the first and the
# second one, while there would have to be three.
FULL = """
import shutil, subprocess, sys
from pathlib import Path
from toy import World, configured
from ray_diffusion.errors import StorageError
from ray_diffusion.training.checkpoint import newest_facts

def mount(options):
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", world.path], check=True)

world, run = World(Path(sys.argv[1])), configured(Path(sys.argv[2]))
world.path.mkdir()
mount(f"size={sys.argv[3]}")
try:
    world.train(run)
except StorageError as error:
    print(error)
print(newest_facts(world.run)[0])
print([path.name for path in world.path.rglob("*.tmp")])
mount("remount,size=100m")
world.train(run)
print(world.warnings)
shutil.copytree(world.path / world.run.names()[-1], sys.argv[4])
"""


def child(
    script: str, *arguments: object, inside: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a script in another process; ``inside`` goes before the command."""
    here = Path(__file__).parent
    places = os.pathsep.join(map(str, (here, here.parent)))
    return subprocess.run(
        [*inside, sys.executable, "-c", script, *map(str, arguments)],
        # One thread, as the tests have: another number adds in another order.
        env=os.environ | {"PYTHONPATH": places, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def test_a_process_killed_while_it_saves_leaves_the_checkpoint_before_it(
    run: Config, undisturbed: World, world: World, dataset: Path
):
    done = child(KILLED, world.path, dataset, SIXTH)
    assert done.returncode == -9, done.stderr
    assert SIXTH in world.run.names()
    assert newest(world.run) == FIFTH
    world.train(run)
    assert world.weights() == undisturbed.weights()
    assert not world.warnings
    assert not list(world.path.rglob("*.tmp"))


OWN_MOUNTS = ["unshare", "--user", "--map-root-user", "--mount"]


def can_mount(path: Path) -> bool:
    try:
        mount = ["mount", "-t", "tmpfs", "tmpfs", str(path)]
        return not subprocess.run([*OWN_MOUNTS, *mount], capture_output=True).returncode
    except FileNotFoundError:
        return False


def test_a_run_whose_disk_is_full_keeps_its_checkpoint_and_goes_on_when_there_is_room(
    undisturbed: World, dataset: Path, tmp_path: Path
):
    if not can_mount(tmp_path):
        pytest.skip("this machine does not let its users mount")
    last = undisturbed.path / undisturbed.run.names()[-1]
    size = sum(path.stat().st_size for path in last.iterdir())
    place, end = tmp_path / "run", tmp_path / "end"
    done = child(FULL, place, dataset, 5 * size // 2, end, inside=OWN_MOUNTS)
    assert done.returncode == 0, done.stderr
    error, name, left_over, warnings = done.stdout.splitlines()
    assert error.startswith(f"cannot write {place}/{SIXTH}/")
    assert error.endswith(": No space left on device")
    assert (name, left_over, warnings) == (FIFTH, "[]", "[]")
    for file in ("model.safetensors", "ema.safetensors"):
        assert (end / file).read_bytes() == (last / file).read_bytes()


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    run: Config, undisturbed: World, world: World
):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    steps = iter(range(1, 100))

    def fill() -> bool:
        if next(steps) == 6:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, hard))  # bytes: less than weights
        return False

    try:
        with one_line_of_exit_code_3() as error:
            loop(run, replace(world.harness(), should_stop=fill), CPU)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large" in str(error.value)
    assert newest(world.run) < SIXTH  # the fifth may have been on its way still
    world.train(run)
    assert_same_end(world, undisturbed)
    assert not world.warnings
