import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest
import tiny_dataset
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_dataset import Seen, example, numbered, opened, seen
from torch.utils.data import DataLoader

from ray_diffusion.data.shards import AHEAD
from ray_diffusion.data.stream import NEW_STEPS_AHEAD, Stream, batches
from ray_diffusion.data.training_set import TrainingSet
from ray_diffusion.errors import DataError
from ray_diffusion.storage import Directory

Play = Callable[..., list[str]]
SIZES, OTHER_SIZES = [5, 9, 1, 7], [3, 8]
N = sum(SIZES)
SEED = 3

# Python warns of forks where another test left threads behind; what they hold is not used here.
# Torch warns of more processes than there are cores.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two datasets, of numbers from 1 on and of numbers from 101 on."""
    folder = tmp_path_factory.mktemp("datasets")
    tiny_dataset.write(f"{folder}/one", numbered(SIZES))
    tiny_dataset.write(f"{folder}/two", numbered(OTHER_SIZES, first=101))
    return str(folder)


@pytest.fixture
def train(folder: str) -> TrainingSet:
    return opened(f"{folder}/one")


@pytest.fixture(params=["one", "mixed", "downloaded"])
def data(folder: str, request: pytest.FixtureRequest) -> TrainingSet:
    """Of one dataset or of two; no path to the program where they lie is one to download from."""
    if request.param == "one":
        return opened(f"{folder}/one")
    scheme = "local://" if request.param == "downloaded" else ""
    return opened(f"{scheme}{folder}/one", f"{scheme}{folder}/two", weights=(3.0, 1.0))


def forked(stream: Stream, workers: int) -> DataLoader:
    """A stream read by processes that start fast; `batches` spawns them."""
    context = "fork" if workers else None
    return DataLoader(
        stream,
        batch_size=None,
        num_workers=workers,
        collate_fn=lambda batch: batch,
        multiprocessing_context=context,
    )


def global_batches(
    data: TrainingSet, consumed: int, batch: int, steps: int, world: int = 1, workers: int = 0
) -> list[list[Seen]]:
    """Each global batch, sorted, as all workers together read it."""
    ranks = []
    for rank in range(world):
        stream = Stream(data, SEED, consumed, batch, rank, world, mirror=True)
        ranks.append([seen(part) for part in islice(forked(stream, workers), steps)])
    for parts in zip(*ranks, strict=True):
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
    return [sorted(chain(*parts)) for parts in zip(*ranks, strict=True)]


@pytest.mark.parametrize(("world", "workers"), [(1, 1), (1, 3), (2, 2), (3, 0), (4, 2), (12, 0)])
def test_any_number_of_workers_and_their_helpers_reads_the_same_batches(
    data: TrainingSet, world: int, workers: int
):
    # Seven steps of 13 are more than four epochs.
    expected = global_batches(data, 0, 13, 7)
    assert global_batches(data, 0, 13, 7, world, workers) == expected


def test_a_run_that_is_killed_and_resumed_with_other_workers_reads_on_as_if_nothing_were(
    data: TrainingSet,
):
    whole = list(chain(*global_batches(data, 0, 9, 8)))
    parts = [
        *global_batches(data, 0, 5, 3, world=2, workers=2),
        *global_batches(data, 15, 7, 5, world=3, workers=0),
        *global_batches(data, 50, 22, 1, world=4, workers=3),
    ]
    assert list(chain(*parts)) == whole


@settings(max_examples=8)
@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.integers(5, 30), st.integers(1, 3)), min_size=1, max_size=4
    )
)
def test_any_series_of_world_sizes_and_batches_reads_the_bytes_of_the_uninterrupted_stream(
    folder: str, runs: list[tuple[int, int, int]]
):
    data = opened(f"{folder}/one", f"{folder}/two", weights=(3.0, 1.0))
    consumed, parts = 0, []
    for world, batch, steps in runs:
        parts += global_batches(data, consumed, batch, steps, world)
        consumed += batch * steps
    (whole,) = global_batches(data, 0, consumed, 1)
    assert list(chain(*parts)) == whole
    assert [position for position, *_ in whole] == list(range(consumed))
    for numbers in (range(1, 1 + N), range(101, 101 + sum(OTHER_SIZES))):
        own = [number for _, number, *_ in whole if number in numbers]
        for start in range(0, len(own), len(numbers)):
            epoch = own[start : start + len(numbers)]
            assert len(set(epoch)) == len(epoch)


def test_the_examples_are_those_the_order_names(train: TrainingSet):
    starts = np.cumsum([0, *SIZES])
    at = train.mixture(SEED).part(0, 3 * N, 0, 1)
    by_position = np.argsort(at.positions)
    numbers = (1 + starts[at.shards] + at.indices)[by_position].tolist()
    (found,) = global_batches(train, 0, 3 * N, 1)
    assert [(p, number, label) for p, number, _, label in found] == [
        (p, number, number % 3) for p, number in enumerate(numbers)
    ]


def test_half_of_the_images_are_mirrored_and_not_the_same_half_each_epoch(train: TrainingSet):
    epochs = global_batches(train, 0, N, 40)
    halves = [frozenset(one.number for one in epoch if one.mirrored) for epoch in epochs]
    share = sum(map(len, halves)) / (40 * N)
    assert 0.43 < share < 0.57  # four standard deviations of 880 fair coins
    assert len(set(halves)) == 40
    first = next(iter(Stream(train, SEED + 1, 0, N, mirror=True)))
    assert {one.number for one in seen(first) if one.mirrored} != halves[0]


def test_unless_asked_nothing_is_mirrored(train: TrainingSet):
    assert not any(one.mirrored for one in seen(next(iter(Stream(train, SEED, 0, 10 * N)))))


def test_all_weights_are_1_and_nothing_is_bad(train: TrainingSet):
    batch = next(iter(Stream(train, SEED, 0, 10)))
    assert batch.weights.tolist() == [1.0] * 10
    assert batch.bad == 0


def test_spawned_helpers_read_the_same_and_end_with_the_stream(folder: str):
    data = opened(f"local://{folder}/one", f"local://{folder}/two", weights=(3.0, 1.0))
    expected = [seen(batch) for batch in islice(Stream(data, SEED, 4, 6, mirror=True), 9)]
    with closing(batches(Stream(data, SEED, 4, 6, mirror=True), workers=2)) as found:
        assert [seen(batch) for batch in islice(found, 9)] == expected
        assert len(multiprocessing.active_children()) == 2
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_ends_the_stream_as_itself_at_its_batch(tmp_path: Path, workers: int):
    url = f"local://{tmp_path}/data"
    tiny_dataset.write(f"{tmp_path}/data", numbered([4, 4]))
    Directory(f"{tmp_path}/data").remove("train-1.tar")
    data = opened(url, lanes=1, block=1)
    shards = data.mixture(SEED).part(0, 8, 0, 1).shards.tolist()
    good = shards.index(1)  # single examples before the first of the missing shard
    found = batches(Stream(data, SEED, 0, 1), workers)
    with closing(found):
        assert len([next(found) for _ in range(good)]) == good
        with pytest.raises(DataError) as error:
            next(found)
    assert str(error.value) == f"shard {url}/train-1.tar is missing"
    assert not multiprocessing.active_children()


def test_leaving_a_stream_ends_its_threads_and_closes_its_files(remote: str):
    tiny_dataset.write(remote, numbered(SIZES))
    data = opened(remote)
    before = threading.active_count(), len(os.listdir("/dev/fd"))
    with closing(batches(Stream(data, SEED, 0, 4))) as found:
        next(found)
        assert threading.active_count() > before[0]
    assert (threading.active_count(), len(os.listdir("/dev/fd"))) == before


def test_a_stream_that_is_sent_to_another_process_takes_no_files_along(train: TrainingSet):
    for dataset in train.datasets:
        dataset.read(0, 1)  # opens some
    found = pickle.loads(pickle.dumps(Stream(train, SEED, 0, 5)))
    assert seen(next(iter(found))) == seen(next(iter(Stream(train, SEED, 0, 5))))
    train.datasets[0].close()


@pytest.fixture
def many(remote: str) -> TrainingSet:
    """A dataset of more shards than are fetched ahead, from a storage that does as a test says."""
    tiny_dataset.write(remote, numbered([1] * (3 * AHEAD)))
    return opened(remote.replace("memory://", "scripted://"), lanes=1, block=1)


def test_shards_of_batches_to_come_are_fetched_meanwhile(many: TrainingSet, scripted: Play):
    fetched = threading.Semaphore(0)
    downloads = scripted(lambda *_: fetched.release())
    found: Iterator = iter(Stream(many, SEED, 0, 1))
    read = AHEAD // NEW_STEPS_AHEAD
    for _ in range(read):
        next(found)
    for _ in range(AHEAD):
        assert fetched.acquire(timeout=60)
    found.close()
    ahead = many.mixture(SEED).part(0, read + AHEAD, 0, 1).shards.tolist()
    assert set(downloads) <= {f"train-{shard}.tar" for shard in ahead}


def test_the_first_batch_does_not_wait_for_those_to_come(many: TrainingSet, scripted: Play):
    first = many.mixture(SEED).part(0, 1, 0, 1).shards[0]
    read = threading.Event()
    scripted(lambda name, _: name == f"train-{first}.tar" or read.wait(60))
    found: Iterator = iter(Stream(many, SEED, 0, 1))
    assert seen(next(found))[0].number == 1 + first
    assert not read.is_set()
    read.set()
    found.close()


def test_a_stream_is_a_source_of_webdatasets_pipeline(data: TrainingSet):
    stream = Stream(data, SEED, 0, 8)
    pipeline = webdataset.DataPipeline(
        stream.examples,
        webdataset.map(lambda one: (one["__key__"], one["__url__"], one["png"], one["cls"])),
        webdataset.batched(4, collation_fn=None),
    )
    found = list(chain(*islice(iter(pipeline), 6)))
    numbers = [one.number for batch in islice(stream, 3) for one in seen(batch)]
    images = {example(number)["png"]: number for number in range(1, 256)}
    assert [images[png] for _, _, png, _ in found] == numbers
    assert [int(cls) for *_, cls in found] == [number % 3 for number in numbers]
    assert {url for _, url, *_ in found} == {str(place) for place in data.places}
    assert {key.split("-")[0] for key, *_ in found} == {"example"}
