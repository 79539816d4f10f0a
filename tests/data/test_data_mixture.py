from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_diffusion.data.mixture import PERIOD, Located, Mixture
from ray_diffusion.data.order import Order

few = settings(max_examples=30)
SHARDS = st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(any)


@st.composite
def mixtures(draw: st.DrawFn) -> list[tuple[list[int], int, int, float]]:
    """Shard sizes, lanes, block and weight of each dataset."""
    one = st.tuples(SHARDS, st.integers(1, 20), st.integers(1, 60), st.floats(0.01, 100))
    return draw(st.lists(one, min_size=1, max_size=5))


# World size, batch and steps between one start of a run and the next.
RUNS = st.lists(
    st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 6)), min_size=1, max_size=4
)


def mixture(datasets: list[tuple[list[int], int, int, float]], seed: int = 0) -> Mixture:
    orders = [Order(sizes, seed, lanes, block) for sizes, lanes, block, _ in datasets]
    first_shards = np.cumsum([0, *(len(sizes) for sizes, _, _, _ in datasets)])[:-1].tolist()
    return Mixture(orders, first_shards, [weight for _, _, _, weight in datasets])


def rows(located: Located) -> list[tuple[int, ...]]:
    return list(zip(*(column.tolist() for column in located), strict=True))


def global_batch(mixed: Mixture, consumed: int, batch: int, world: int) -> list[tuple[int, ...]]:
    parts = [mixed.part(consumed, batch, rank, world) for rank in range(world)]
    sizes = [len(part.positions) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    return sorted(row for part in parts for row in rows(part))


def sources(weights: list[float], count: int) -> np.ndarray:
    """Which dataset each of the first positions of a stream belongs to."""
    orders = [Order([2**12], 0, 1, 2**12) for _ in weights]
    part = Mixture(orders, range(len(weights)), weights).part(0, count, 0, 1)
    return part.shards[np.argsort(part.positions)]


@few
@given(mixtures(), st.integers(0, 99), RUNS)
def test_any_series_of_world_sizes_and_batches_reads_the_uninterrupted_stream(
    datasets: list[tuple[list[int], int, int, float]],
    seed: int,
    runs: list[tuple[int, int, int]],
):
    consumed, seen = 0, []
    for world, batch, steps in runs:
        mixed = mixture(datasets, seed)  # a new process, which knows `consumed` alone
        batch = max(batch, world)
        for _ in range(steps):
            seen += global_batch(mixed, consumed, batch, world)
            consumed += batch
    assert [position for position, *_ in seen] == list(range(consumed))
    assert seen == global_batch(mixture(datasets, seed), 0, consumed, 1)


@few
@given(
    mixtures(),
    st.lists(st.integers(0, 500), min_size=1, max_size=5),
    st.integers(1, 40),
    st.integers(1, 9),
)
def test_parts_of_several_batches_at_once_are_those_of_each(
    datasets: list[tuple[list[int], int, int, float]], starts: list[int], batch: int, world: int
):
    mixed, batch = mixture(datasets), max(batch, world)
    for rank in range(world):
        found = mixed.parts(starts, batch, rank, world)
        alone = [mixed.part(start, batch, rank, world) for start in starts]
        assert [rows(part) for part in found] == [rows(part) for part in alone]


@few
@given(mixtures(), st.integers(1, 3000))
def test_each_dataset_gives_each_of_its_examples_once_per_its_epoch(
    datasets: list[tuple[list[int], int, int, float]], count: int
):
    found = rows(mixture(datasets).part(0, count, 0, 1))
    assert len({row[1:] for row in found}) == count
    first = 0
    for sizes, *_ in datasets:
        own = sorted(row for row in found if first <= row[2] < first + len(sizes))
        n = sum(sizes)
        # Its examples come epoch by epoch: only the last one may be incomplete.
        assert [epoch for _, epoch, _, _ in own] == [i // n for i in range(len(own))]
        assert all(index < sizes[shard - first] for _, _, shard, index in own)
        first += len(sizes)


@few
@given(st.lists(st.integers(1, 64), min_size=1, max_size=15), st.integers(1, 1100))
def test_at_every_prefix_each_dataset_has_had_its_share_within_one(parts: list[int], count: int):
    weights = [*parts, PERIOD - sum(parts)]  # multiples of 1/1024 are kept as they are
    found = sources([w / 3 for w in weights], count)
    for source, weight in enumerate(weights):
        had = np.cumsum(found == source)
        assert np.abs(had - weight / PERIOD * np.arange(1, count + 1)).max() < 1


@few
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=300))
def test_shares_are_spread_evenly_whatever_the_weights(weights: list[float]):
    period = 2 * PERIOD
    found = sources(weights, 3 * period)
    counts = np.bincount(found, minlength=len(weights))
    assert counts.all()  # no dataset is left out, however small its weight
    exact = np.asarray(weights) / sum(weights)
    # Whole places: at most one of about 1024 more or less for a dataset, and one for each other.
    slack = (len(weights) + 1) / PERIOD
    assert np.abs(counts / len(found) - exact).max() <= slack + 2 / len(found)


def test_a_dataset_alone_is_read_in_its_own_order():
    order = Order([5, 9, 1, 7], 3, 3, 8)
    positions = np.arange(100)
    found = Mixture([order], [0], [7.0]).part(0, 100, 0, 1)
    by_position = np.argsort(found.positions)
    expected = np.stack([positions, *order.locate(positions)])
    assert (np.stack(found)[:, by_position] == expected).all()


def test_in_a_mixture_each_dataset_keeps_its_own_order():
    alone, other = Order([5, 9, 1, 7], 3, 3, 8), Order([40], 3, 1, 8)
    found = global_batch(Mixture([other, alone], [0, 1], [2.0, 1.0]), 0, 300, 1)
    own = [(epoch, shard - 1, index) for _, epoch, shard, index in found if shard >= 1]
    expected = np.stack(alone.locate(np.arange(len(own)))).T.tolist()
    assert [list(row) for row in own] == expected


def test_two_to_one_is_read_two_to_one():
    assert Counter(sources([2.0, 1.0], 3 * 341).tolist()) == {0: 2 * 341, 1: 341}


@pytest.mark.parametrize("weights", [[1.0, 1.0], [3.0, 1.0]])
def test_a_worker_keeps_its_lanes_of_a_mixture_where_the_pattern_divides_the_batch(
    weights: list[float],
):
    orders = [Order([100] * 8, 3, 8, 100) for _ in weights]
    mixed = Mixture(orders, [0, 8], weights)
    for rank in range(4):
        shards = [set(mixed.part(s * 64, 64, rank, 4).shards.tolist()) for s in range(12)]
        assert len(set.union(*shards)) <= 8  # of 16


def test_the_pattern_of_a_mixture_is_frozen():
    """If this fails, the order changed: raise ORDER_VERSION, and then the values here."""
    assert sources([0.5, 0.3, 0.2], 12).tolist() == [0, 1, 0, 2, 0, 1, 0, 0, 1, 2, 0, 1]
