import contextlib
import math
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spooled import ACTIONS, train

from ray_diffusion.errors import StorageError, UsageError
from ray_diffusion.tracking.batch import Batch
from ray_diffusion.tracking.curve import read_metrics
from ray_diffusion.tracking.events import Artifact, Event, Points, Status
from ray_diffusion.tracking.journal import Journal
from ray_diffusion.tracking.spool import Spool


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "train.jsonl"


def events(spool: Spool) -> list[Event]:
    return [event for batch in spool.unshipped() for event in batch.events]


def steps(path: Path, name: str = "loss") -> list[int]:
    return [step for step, _ in read_metrics(path).get(name, [])]


def test_a_torn_last_line_is_cut_and_its_step_recorded_again(path: Path) -> None:
    spool = Spool(path)
    spool.log(1, {"loss": 1.0})
    spool.log(2, {"loss": 2.0})
    spool.close()
    os.truncate(path, path.stat().st_size - 5)

    again = Spool(path)
    assert steps(path) == [1]
    again.log(2, {"loss": 2.0})
    again.close()
    assert steps(path) == [1, 2]


def test_a_file_that_is_one_torn_line_becomes_empty(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"x" * 200_000)
    spool = Spool(path)
    assert path.stat().st_size == 0
    assert spool.drained
    spool.close()


def test_each_metric_has_its_own_high_water_mark(path: Path) -> None:
    spool = Spool(path)
    spool.log(10, {"train/loss": 1.0})
    spool.log(10, {"train/loss": 9.0, "val/loss": 2.0})
    spool.log(5, {"val/loss": 9.0, "sample/fd": 3.0})
    spool.close()
    assert read_metrics(path) == {
        "train/loss": [(10, 1.0)],
        "val/loss": [(10, 2.0)],
        "sample/fd": [(5, 3.0)],
    }


@pytest.mark.parametrize("shipped", [True, False])
def test_marks_survive_a_restart(path: Path, shipped: bool) -> None:
    spool = Spool(path)
    spool.log(10, {"loss": 1.0})
    if shipped:
        for batch in spool.unshipped():
            spool.ack(batch)
    spool.close()

    again = Spool(path)
    again.log(10, {"loss": 1.0})
    again.log(11, {"loss": 1.0})
    assert again.backlog == (1 if shipped else 2)
    again.close()
    assert steps(path) == [10, 11]


def test_batches_hold_points_up_to_a_limit_and_other_events_alone(
    path: Path, tmp_path: Path
) -> None:
    spool = Spool(path)
    for step in range(5):
        spool.log(step, {"a": 0.0, "b": 0.0})
    spool.add_artifact(tmp_path / "grid.png", "samples")
    spool.log(5, {"a": 0.0})
    spool.set_status("FINISHED")
    kinds = [[type(event) for event in batch.events] for batch in spool.unshipped(limit=4)]
    assert kinds == [[Points] * 2, [Points] * 2, [Points], [Artifact], [Points], [Status]]
    spool.close()


def test_an_acked_batch_is_not_handed_out_again(path: Path) -> None:
    spool = Spool(path)
    for step in range(4):
        spool.log(step, {"loss": 0.0})
    spool.ack(next(spool.unshipped(limit=3)))
    spool.close()

    again = Spool(path)
    assert [event.step for event in events(again) if isinstance(event, Points)] == [3]
    assert again.backlog == 1
    again.close()


def test_a_damaged_note_of_the_offset_means_that_all_is_sent_again(path: Path) -> None:
    spool = Spool(path)
    spool.log(1, {"loss": 0.0})
    for batch in spool.unshipped():
        spool.ack(batch)
    assert spool.drained
    spool.close()
    path.with_suffix(".acked").write_bytes(b"")

    again = Spool(path)
    assert again.backlog == 1
    again.close()


def test_damaged_lines_are_passed_over(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b'\x00\x00\n{"t":1,"s":1,"m":{"loss":0}}\n[]\n{"later":1}\n')
    spool = Spool(path)
    assert events(spool) == [Points(1, 1, {"loss": 0.0})]
    for batch in spool.unshipped():
        spool.ack(batch)
    assert spool.drained
    spool.close()


def test_values_that_are_not_finite_are_kept(path: Path) -> None:
    spool = Spool(path)
    spool.log(1, {"nan": math.nan, "inf": math.inf})
    spool.close()
    values = read_metrics(path)
    assert math.isnan(values["nan"][0][1])
    assert values["inf"] == [(1, math.inf)]


def test_a_directory_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(StorageError, match=r"train\.jsonl"):
        Spool(tmp_path / "run" / "train.jsonl")


HOLDER = """
import pathlib, sys
from ray_diffusion.tracking.journal import Journal
from ray_diffusion.tracking.spool import Spool
spool = Spool(pathlib.Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
"""


def test_a_second_opener_is_refused_naming_the_pid_until_the_first_is_gone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with monkeypatch.context() as patch:
            patch.setattr("ray_diffusion.tracking.spool.LOCK_WAIT_S", 0.1)
            with pytest.raises(UsageError, match=rf"pid {holder.pid} on .*run\.name"):
                Spool(path)
        holder.send_signal(signal.SIGKILL)
        Spool(path).close()


FULL_DISK = """
import pathlib, resource, signal, sys
from ray_diffusion.tracking.journal import Journal
from ray_diffusion.tracking.spool import Spool
path = pathlib.Path(sys.argv[1])
spool = Spool(path)
spool.log(1, {"loss": 1.0})
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, hard))
for step in range(2, 10):
    spool.log(step, {"loss": float(step)})
assert spool.errors and not spool.drained, "the disk was full"
assert spool.backlog == 9
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
spool.log(10, {"loss": 10.0})
print(spool.errors, spool.lost)
spool.close()
"""


def test_points_wait_in_memory_while_the_disk_is_full(path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout == "8 0\n"
    assert child.stderr.count("metrics wait in memory") == 1
    assert read_metrics(path) == {"loss": [(step, float(step)) for step in range(1, 11)]}


def test_points_beyond_the_memory_bound_are_counted_and_recorded_after_a_restart(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_diffusion.tracking.journal.PENDING_LINES", 2)
    spool = Spool(path)
    with monkeypatch.context() as full:
        full.setattr(Journal, "_drain", lambda journal: None)
        for step in range(4):
            spool.log(step, {"loss": 0.0})
    assert spool.lost == 2
    spool.close()

    again = Spool(path)
    for step in range(4):
        again.log(step, {"loss": 0.0})
    again.close()
    assert steps(path) == [0, 1, 2, 3]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(*ACTIONS, st.tuples(st.just("kill"), st.integers(0, 300))), max_size=25))
def test_any_kills_leave_one_point_for_each_metric_and_step(
    actions: list[tuple[str, int]],
) -> None:
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as cleanup:
        path = Path(directory) / "train.jsonl"
        spool = cleanup.enter_context(contextlib.closing(Spool(path)))
        stored: set[tuple[str, int, int]] = set()  # what MLflow tells apart
        step = furthest = checkpoint = durable = 0
        for action, amount in actions:
            if action == "train":
                train(spool, step, step + amount)
                step += amount
                furthest = max(furthest, step)
            elif action == "kill":
                spool.close()
                # Even a power cut takes only what no fdatasync has put on the disk.
                size = path.stat().st_size
                os.truncate(path, max(size - amount, durable))
                spool = cleanup.enter_context(contextlib.closing(Spool(path)))
                step = checkpoint
            elif action == "checkpoint":
                spool.sync()
                checkpoint, durable = step, path.stat().st_size
            else:
                durable = path.stat().st_size
                for batch in spool.unshipped(limit=amount):
                    stored |= points(batch)
                    if action != "ship":
                        break
                    spool.ack(batch)
        train(spool, step, furthest)
        for batch in spool.unshipped():
            stored |= points(batch)

        every, third = range(1, furthest + 1), range(3, furthest + 1, 3)
        assert sorted(step for name, step, _ in stored if name == "train/loss") == list(every)
        assert sorted(step for name, step, _ in stored if name == "val/loss") == list(third)
        assert steps(path, "train/loss") == list(every)
        assert steps(path, "val/loss") == list(third)


def points(batch: Batch) -> set[tuple[str, int, int]]:
    return {
        (name, event.step, event.time_ms)
        for event in batch.events
        if isinstance(event, Points)
        for name in event.metrics
    }
