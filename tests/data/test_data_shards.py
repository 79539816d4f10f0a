import os
import threading
from collections.abc import Callable, Iterator
from itertools import count

import pytest
import tiny_dataset
from tiny_dataset import PLENTY, numbered

from ray_diffusion.data import shards as shards_module
from ray_diffusion.data.cache import LOCKS, CacheFull, ShardCache
from ray_diffusion.data.shards import AHEAD, DOWNLOADS, Place, Shards
from ray_diffusion.errors import DataError
from ray_diffusion.storage import Directory

Play = Callable[..., list[str]]
MANY = AHEAD + 8  # shards


@pytest.fixture
def places(remote: str) -> list[Place]:
    """More remote shards than are fetched ahead, in a storage that does as a test says."""
    shards = tiny_dataset.write(remote, numbered([2] * MANY)).splits["train"]
    directory = Directory(remote.replace("memory://", "scripted://"))
    return [Place(directory, shard) for shard in shards]


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """One download at a time, so that their order can be told."""
    monkeypatch.setattr(shards_module, "DOWNLOADS", 1)


@pytest.fixture(autouse=True)
def _leaves_nothing(places: list[Place]) -> Iterator[None]:
    threads, files = threading.active_count(), len(os.listdir("/dev/fd"))
    yield
    assert (threading.active_count(), len(os.listdir("/dev/fd"))) == (threads, files)


def key_of(shards: Shards, shard: int) -> bytes:
    """The label and image of the first example of a shard."""
    _, files = shards.read(shard, 0)
    return files["png"]


def names(*numbers: int) -> list[str]:
    return [f"train-{number}.tar" for number in numbers]


@pytest.mark.usefixtures("one_by_one")
def test_shards_are_fetched_in_the_order_asked_for(places: list[Place], scripted: Play):
    downloads = scripted()
    with Shards(places, ShardCache(PLENTY), 4) as shards:
        shards.ask([3, 1, 2])
        shards.ask([2, 0])
        for shard in (3, 1, 2, 0):
            assert key_of(shards, shard) == tiny_dataset.example(2 * shard + 1)["png"]
    assert downloads == names(3, 1, 2, 0)


@pytest.mark.usefixtures("one_by_one")
def test_no_more_than_a_few_are_on_their_way_and_reading_one_sends_for_the_next(
    places: list[Place], scripted: Play
):
    came = threading.Semaphore(0)
    downloads = scripted(lambda *_: came.release())
    with Shards(places, ShardCache(PLENTY), MANY) as shards:
        shards.ask(range(MANY))
        assert not shards.has_room_ahead
        key_of(shards, MANY - 1)  # comes next after those on their way
        assert downloads == names(*range(AHEAD), MANY - 1)
        key_of(shards, 0)
        for _ in range(AHEAD + 2):
            assert came.acquire(timeout=60)
        assert downloads[-1:] == names(AHEAD)
        for shard in range(1, MANY):
            key_of(shards, shard)
        assert shards.has_room_ahead
    assert sorted(downloads) == sorted(names(*range(MANY)))


def test_what_is_open_is_not_sent_for(places: list[Place]):
    with Shards(places, ShardCache(PLENTY), MANY) as shards:
        for shard in range(AHEAD):
            key_of(shards, shard)
        shards.ask(range(AHEAD))
        assert shards.has_room_ahead


def test_downloads_run_side_by_side(places: list[Place], scripted: Play):
    together = threading.Barrier(DOWNLOADS, timeout=60)  # broken unless all are there at once
    scripted(lambda *_: together.wait())
    # Two shards may share a lock, and would take turns.
    apart = {place.shard.crc32 % LOCKS: i for i, place in enumerate(places)}
    chosen = list(apart.values())[:DOWNLOADS]
    with Shards(places, ShardCache(PLENTY), 4) as shards:
        shards.ask(chosen)
        key_of(shards, chosen[0])
        assert not together.broken


def test_the_longest_unused_shard_is_closed(places: list[Place], monkeypatch: pytest.MonkeyPatch):
    opened = []
    cache = ShardCache(PLENTY)
    open_ = cache.open
    monkeypatch.setattr(cache, "open", lambda *of: opened.append(of[1].name) or open_(*of))
    with Shards(places, cache, 2) as shards:
        for shard in (0, 1, 0, 2, 0, 1):
            key_of(shards, shard)
    assert opened == names(0, 1, 2, 1)


def test_what_was_not_asked_for_is_read_as_well(places: list[Place], scripted: Play):
    downloads = scripted()
    with Shards(places, ShardCache(PLENTY), 1) as shards:
        assert key_of(shards, 5) == tiny_dataset.example(11)["png"]
    assert downloads == names(5)


@pytest.mark.parametrize("room", [1, 2, 5])
def test_a_cache_too_small_for_what_is_asked_ahead_is_enough(places: list[Place], room: int):
    size = places[0].shard.bytes
    with Shards(places, ShardCache(room * size), most_open=MANY) as shards:
        shards.ask(range(MANY))
        for shard in (*range(MANY), 0, 7, 1):
            assert key_of(shards, shard) == tiny_dataset.example(2 * shard + 1)["png"]


def test_what_was_fetched_ahead_makes_way_for_what_is_read_now(places: list[Place]):
    size = places[0].shard.bytes
    with Shards(places, ShardCache(2 * size), most_open=MANY) as shards:
        shards.ask([0, 1])
        key_of(shards, 0)
        for shard in (9, 8):  # out of the order asked for
            assert key_of(shards, shard) == tiny_dataset.example(2 * shard + 1)["png"]


def test_a_cache_that_others_fill_is_full(places: list[Place]):
    cache = ShardCache(places[0].shard.bytes)
    held = cache.open(*places[0])
    with Shards(places, cache, 2) as shards, pytest.raises(CacheFull):
        shards.read(1, 0)
    os.close(held)


def test_closing_in_the_middle_of_downloads_leaves_nothing(places: list[Place], scripted: Play):
    started, numbers = threading.Event(), count()

    def script(name: str, path: str) -> None:
        if next(numbers) == 3:
            started.set()
        if name == "train-2.tar":
            raise ConnectionResetError("hung up")

    scripted(script)
    shards = Shards(places, ShardCache(PLENTY), 4)
    shards.ask(range(MANY))
    assert started.wait(60)
    shards.close()  # the fixture counts files and threads


def test_an_error_of_a_download_comes_when_its_shard_is_read(places: list[Place], scripted: Play):
    places[1].dataset.remove("train-1.tar")
    scripted()
    with Shards(places, ShardCache(PLENTY), 4) as shards:
        shards.ask([0, 1, 2])
        key_of(shards, 0)
        with pytest.raises(DataError, match=r"train-1\.tar is missing"):
            key_of(shards, 1)
        key_of(shards, 2)


def test_a_shard_that_cannot_be_indexed_is_not_kept_open(remote: str):
    shard = tiny_dataset.write(remote, [[]]).splits["train"][0]
    shard = shard.__class__(**vars(shard) | {"examples": 3})
    with Shards([Place(Directory(remote), shard)], ShardCache(PLENTY), 4) as shards:
        for _ in range(2):
            with pytest.raises(DataError) as error:
                shards.read(0, 0)
            assert str(error.value) == (
                f"{remote}/train-0.tar holds 0 examples, the manifest says 3"
            )
