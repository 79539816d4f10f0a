import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
import torch
from toy import BATCH, CPU, World

from ray_diffusion.config import Config
from ray_diffusion.data.training_set import open_training_set
from ray_diffusion.errors import StorageError
from ray_diffusion.training.checkpoint import Snapshot, snapshot, write
from ray_diffusion.training.loop import loop
from ray_diffusion.training.saving import Saver
from ray_diffusion.training.state import initial_state

PATIENCE_S = 60  # for what happens at once unless it never does


@pytest.fixture
def copy(run: Config) -> Snapshot:
    return snapshot(initial_state(run, CPU), run, open_training_set(run.data))


def refuse(directory: Path, images_seen: int, group: None) -> None:
    raise StorageError(f"no room for {images_seen}")


def test_training_goes_on_while_a_checkpoint_is_published(run: Config, world: World):
    harness, onward, saved = world.harness(keep=9), Event(), []

    def save(directory: Path, images_seen: int, group: None) -> None:
        if not saved:  # the one of step 3; the next is due at step 5
            assert onward.wait(PATIENCE_S)
        saved.append(images_seen // BATCH)
        harness.save(directory, images_seen, group)

    def log(images_seen: int, metrics: Mapping[str, float]) -> None:
        harness.log(images_seen, metrics)
        if images_seen == 5 * BATCH:
            onward.set()

    loop(run, replace(harness, save=save, log=log), CPU)
    assert saved == [3, 5, 6, 9, 10]


def test_a_checkpoint_that_cannot_be_published_ends_the_training(run: Config, world: World):
    with pytest.raises(StorageError, match="no room for 96"):
        loop(run, replace(world.harness(), save=refuse), CPU)


def test_what_is_published_is_what_would_be_written_at_once(copy: Snapshot, tmp_path: Path):
    found = {}

    def publish(directory: Path, images_seen: int, group: None) -> None:
        found.update({path.name: path.read_bytes() for path in directory.iterdir()})
        assert images_seen == 7

    with Saver(publish) as saver:
        saver.save(copy._replace(images_seen=7))
    write(tmp_path, copy)
    assert found == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(found) == 5
    assert not [thread for thread in threading.enumerate() if "checkpoint" in thread.name]


class Watched(Saver):
    """Tells when somebody waits for a checkpoint."""

    def __init__(self, publish: Callable[[Path, int], None], waiting: Event) -> None:
        super().__init__(publish)
        self._waiting = waiting

    def wait(self) -> None:
        if self._saving is not None:
            self._waiting.set()
        super().wait()


def test_a_save_waits_for_the_one_before(copy: Snapshot):
    waiting, events = Event(), []

    def publish(directory: Path, images_seen: int, group: None) -> None:
        assert waiting.wait(PATIENCE_S)
        events.append(f"published {images_seen}")

    with Watched(publish, waiting) as saver:
        for seen in (1, 2):
            saver.save(copy._replace(images_seen=seen))
            events.append(f"handed over {seen}")
    assert events == ["handed over 1", "published 1", "handed over 2", "published 2"]


def test_asking_for_failures_waits_for_nothing(copy: Snapshot):
    asked, published = Event(), []

    def publish(directory: Path, images_seen: int, group: None) -> None:
        published.append(asked.wait(PATIENCE_S))

    with Saver(publish) as saver:
        saver.check()
        saver.save(copy)
        saver.check()
        asked.set()
    assert published == [True]


def test_a_failure_is_raised_by_the_next_save_and_told_once(copy: Snapshot):
    with Saver(refuse) as saver:
        saver.save(copy._replace(images_seen=1))
        with pytest.raises(StorageError, match="no room for 1"):
            saver.save(copy._replace(images_seen=2))
        saver.wait()


def asked_until_it_raises(saver: Saver) -> None:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        saver.check()


def test_a_failure_is_raised_by_asking_for_it(copy: Snapshot):
    with Saver(refuse) as saver:
        saver.save(copy)
        with pytest.raises(StorageError, match="no room"):
            asked_until_it_raises(saver)


def test_a_failure_of_the_last_save_is_raised_at_the_end(copy: Snapshot):
    with pytest.raises(StorageError, match="no room"), Saver(refuse) as saver:
        saver.save(copy)


def test_what_cannot_be_written_is_one_line(copy: Snapshot):
    unwritable = copy._replace(weights={"without data": torch.zeros(2, device="meta")})
    line = r"cannot write a checkpoint to \S+: .*meta"
    with pytest.raises(StorageError, match=line), Saver(refuse) as saver:
        saver.save(unwritable)


def save_and_fail(saver: Saver, copy: Snapshot) -> None:
    with saver:
        saver.save(copy)
        raise ValueError("of training")


def test_an_error_of_training_leaves_what_was_copied_published(copy: Snapshot):
    left, published = Event(), []

    def publish(directory: Path, images_seen: int, group: None) -> None:
        assert left.wait(PATIENCE_S)
        published.append(images_seen)

    with pytest.raises(ValueError, match="of training"):
        save_and_fail(Watched(publish, left), copy)
    assert published == [0]


def test_a_failure_to_save_does_not_hide_an_error_of_training(copy: Snapshot):
    with pytest.raises(ValueError, match="of training") as caught:
        save_and_fail(Saver(refuse), copy)
    assert caught.value.__notes__ == ["the last checkpoint was not saved: no room for 0"]
