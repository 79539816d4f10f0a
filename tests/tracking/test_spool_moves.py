"""A run that goes on at another machine, where there is no spool or an old one."""

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow_server import Server, until
from spooled import ACTIONS, train

from ray_diffusion.tracking.batch import Batch
from ray_diffusion.tracking.events import Artifact, Event, Points
from ray_diffusion.tracking.identity import RunIdentity
from ray_diffusion.tracking.run import find_or_create
from ray_diffusion.tracking.spool import Spool
from ray_diffusion.tracking.tracker import Tracker

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::PendingDeprecationWarning", "ignore::FutureWarning"
)


def here(artifact: Artifact) -> Artifact:
    return artifact


def events(spool: Spool) -> list[Event]:
    return [event for batch in spool.unshipped() for event in batch.events]


def test_what_mlflow_lacks_up_to_a_step_goes_on_with_its_own_times(tmp_path: Path) -> None:
    with (
        contextlib.closing(Spool(tmp_path / "a" / "train.jsonl")) as first,
        contextlib.closing(Spool(tmp_path / "b" / "train.jsonl")) as second,
    ):
        for step in (1, 2, 3, 4):
            first.log(step, {"loss": step / 2})
        first.ack(next(first.unshipped(limit=1)))
        second.adopt(first.tail(until=3), here)
        assert events(second) == events(first)[:2]
        for step in (1, 2, 3, 4):
            second.log(step, {"loss": 0.0})
        assert [event.step for event in events(second) if isinstance(event, Points)] == [2, 3, 4]
        assert second.backlog == 3


def test_files_go_on_from_where_the_new_machine_has_them(tmp_path: Path) -> None:
    with (
        contextlib.closing(Spool(tmp_path / "a" / "train.jsonl")) as first,
        contextlib.closing(Spool(tmp_path / "b" / "train.jsonl")) as second,
    ):
        first.add_artifact(tmp_path / "a" / "64.png", "samples")
        tail = first.tail(until=0)
        second.adopt(tail, lambda artifact: replace(artifact, path="/elsewhere/64.png"))
        [found] = events(second)
        assert isinstance(found, Artifact)
        assert (found.path, found.folder) == ("/elsewhere/64.png", "samples")


def test_a_tail_of_the_spool_itself_adds_nothing(tmp_path: Path) -> None:
    with contextlib.closing(Spool(tmp_path / "train.jsonl")) as spool:
        spool.log(1, {"loss": 0.5})
        spool.add_artifact(tmp_path / "64.png", "samples")
        before = events(spool)
        spool.adopt(spool.tail(until=1), here)
        assert events(spool) == before


def test_what_has_arrived_from_elsewhere_is_known_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    with contextlib.closing(Spool(path)) as spool:
        spool.arrived({"loss": 5})
    with contextlib.closing(Spool(path)) as spool:
        spool.log(5, {"loss": 0.5, "val/loss": 0.5})
        assert [event.metrics for event in events(spool) if isinstance(event, Points)] == [
            {"val/loss": 0.5}
        ]


class Stored:
    """What MLflow tells apart: a point is known by name, step and time."""

    def __init__(self) -> None:
        self.points: set[tuple[str, int, int]] = set()

    def latest(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for name, step, _ in self.points:
            found[name] = max(step, found.get(name, -1))
        return found

    def take(self, batch: Batch) -> None:
        for event in batch.events:
            assert isinstance(event, Points)
            self.points |= {(name, event.step, event.time_ms) for name in event.metrics}

    def steps(self, name: str) -> Sequence[int]:
        return sorted(step for found, step, _ in self.points if found == name)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.one_of(*ACTIONS, st.tuples(st.just("go on at"), st.sampled_from([0, 1, 2]))), max_size=30
    )
)
def test_any_moves_between_machines_leave_one_point_for_each_metric_and_step(
    actions: list[tuple[str, int]],
) -> None:
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as cleanup:
        clock = iter(range(10**6))
        patch = cleanup.enter_context(pytest.MonkeyPatch.context())
        patch.setattr("ray_diffusion.tracking.spool._now_ms", lambda: next(clock))

        def open_at(machine: int) -> Spool:
            path = Path(directory, str(machine), "train.jsonl")
            return cleanup.enter_context(contextlib.closing(Spool(path)))

        spool, stored, asked = open_at(0), Stored(), False
        step = furthest = checkpoint = 0
        tail = b""
        for action, amount in actions:
            if action == "train":
                train(spool, step, step + amount)
                step += amount
                furthest = max(furthest, step)
            elif action == "checkpoint":
                checkpoint, tail = step, spool.tail(step)
            elif action == "go on at":
                spool.close()
                spool, asked, step = open_at(amount), False, checkpoint
                if tail:
                    spool.adopt(tail, here)
            else:
                if not asked:
                    spool.arrived(stored.latest())
                    asked = True
                for batch in spool.unshipped(limit=amount):
                    stored.take(batch.beyond(spool.acked_marks))
                    if action != "ship":
                        break
                    spool.ack(batch)
        train(spool, step, furthest)
        if not asked:
            spool.arrived(stored.latest())
        for batch in spool.unshipped():
            stored.take(batch.beyond(spool.acked_marks))
        assert stored.steps("train/loss") == list(range(1, furthest + 1))
        assert stored.steps("val/loss") == list(range(3, furthest + 1, 3))


def test_a_lost_machine_leaves_one_point_each_in_mlflow(
    server: Server, identity: RunIdentity, tmp_path: Path
) -> None:
    # MLflow has steps 1 to 8 from the first machine, which is lost after a checkpoint at step 5
    # that was taken when MLflow had none of them.
    with contextlib.closing(Spool(tmp_path / "lost" / "train.jsonl")) as lost:
        for step in range(1, 6):
            lost.log(step, {"train/loss": step / 2})
        tail = lost.tail(until=5)
    with Tracker(tmp_path / "lost", "train", identity) as first:
        for step in range(6, 9):
            first.log(step, {"train/loss": step / 2})
        until(lambda: first.backlog == 0)
        run_id = first.run_id
    assert run_id is not None
    with Tracker(tmp_path / "new", "train", identity) as second:
        second.adopt(tail, here)
        for step in range(6, 13):
            second.log(step, {"train/loss": step / 2})
        assert second.finish("FINISHED", deadline_s=60)
    assert server.points(run_id, "train/loss") == [(step, step / 2) for step in range(1, 13)]
    assert find_or_create(identity, run_id=run_id).steps == {"train/loss": 12}
