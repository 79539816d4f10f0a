import hashlib
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_diffusion.data.mixture import Mixture
from ray_diffusion.data.order import ORDER_VERSION, Order, key, permute

few = settings(max_examples=60)

seeds = st.integers(0, 2**31 - 1)
shard_sizes = st.lists(st.integers(0, 40), min_size=1, max_size=20).filter(any)
lane_counts = st.integers(1, 70)
blocks = st.integers(1, 200)


def stream(order: Order, start: int, stop: int) -> list[tuple[int, ...]]:
    """Epoch, shard and index at each position, one after the other."""
    return list(zip(*(a.tolist() for a in order.locate(np.arange(start, stop))), strict=True))


@few
@given(st.integers(1, 3000), st.integers(-(2**63), 2**63 - 1))
def test_permute_is_a_permutation(n: int, k: int):
    assert sorted(permute(np.arange(n), n, key(k)).tolist()) == list(range(n))


@few
@given(st.lists(st.integers(1, 60), min_size=1, max_size=20), seeds)
def test_permute_maps_each_point_in_its_own_domain(sizes: list[int], k: int):
    points = np.concatenate([np.arange(n) for n in sizes])
    domains = np.repeat(sizes, sizes)
    images = permute(points, domains, key(k))
    alone = np.concatenate([permute(np.arange(n), n, key(k)) for n in sizes])
    assert images.tolist() == alone.tolist()


@few
@given(st.integers(2**40, 2**62), seeds)
def test_permute_reaches_points_of_a_domain_too_large_for_a_table(n: int, k: int):
    points = [0, 1, n // 2, n - 1]
    images = permute(points, n, key(k)).tolist()
    assert len(set(images)) == 4
    assert all(0 <= image < n for image in images)


@few
@given(shard_sizes, seeds, st.integers(0, 5), lane_counts, blocks)
def test_an_epoch_is_a_bijection_onto_all_examples(
    sizes: list[int], seed: int, epoch: int, lanes: int, block: int
):
    order = Order(sizes, seed, lanes, block)
    n = order.num_examples
    seen = stream(order, epoch * n, (epoch + 1) * n)
    everything = [(epoch, shard, i) for shard, size in enumerate(sizes) for i in range(size)]
    assert sorted(seen) == everything


@few
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
    st.integers(0, 10_000),
    st.integers(0, 300),
    lane_counts,
    st.data(),
)
def test_parts_of_a_batch_are_its_positions_turn_by_turn_sorted_by_lane(
    sizes: list[int], consumed: int, batch: int, lanes: int, data: st.DataObject
):
    order = Order(sizes, 0, lanes, 3)
    n, lanes = order.num_examples, order.lanes
    turns = sorted((p // n, p % n % lanes, p) for p in range(consumed, consumed + batch))
    first = data.draw(st.integers(0, batch))
    last = data.draw(st.integers(first, batch))
    part = order.by_lane(consumed, batch, first, last)
    assert part.tolist() == [p for _, _, p in turns[first:last]]


def test_seeds_and_epochs_have_orders_of_their_own():
    def epoch(seed: int, number: int) -> list[tuple[int, ...]]:
        found = stream(Order([50, 50], seed, lanes=2, block=8192), number * 100, (number + 1) * 100)
        return [(shard, i) for _, shard, i in found]

    orders = [epoch(0, 0), epoch(0, 1), epoch(1, 0), epoch(1, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_neighbours_of_a_shard_are_not_neighbours_in_the_order():
    found = stream(Order([1000], seed=0, lanes=1, block=8192), 0, 1000)
    steps = np.abs(np.diff([i for _, _, i in found]))
    # The mean distance of two independent uniform draws from [0, n) is n / 3 (here 333, +- 8).
    assert 290 < steps.mean() < 376


def test_there_are_no_more_lanes_than_examples():
    assert Order([1, 1], seed=0, lanes=8, block=1).lanes == 2


def test_threads_share_an_order():
    order = Order(
        [1], seed=0, lanes=1, block=1
    )  # each position is an epoch: far more than an order keeps at hand
    parts = [np.arange(3 * thread, 3 * thread + 300) for thread in range(16)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads take turns as often as they can
    try:
        with ThreadPoolExecutor(8) as pool:
            located = list(pool.map(order.locate, parts))
    finally:
        sys.setswitchinterval(interval)
    for part, (epochs, shards, indices) in zip(parts, located, strict=True):
        assert epochs.tolist() == part.tolist()
        assert not shards.any()
        assert not indices.any()


def test_the_arithmetic_is_frozen():
    """If this fails, the order changed: raise ORDER_VERSION, and then the values here."""
    assert ORDER_VERSION == 1
    assert key(1, 2, -3).tolist() == [15020427595393229491]
    assert permute(np.arange(10), 10, key(1, 2)).tolist() == [1, 7, 3, 4, 2, 8, 0, 9, 6, 5]
    order = Order([3, 1, 4], seed=7, lanes=2, block=3)
    _, shards, indices = (a.tolist() for a in order.locate(np.arange(24)))
    assert shards == [2, 1, 2, 0, 2, 0, 2, 0, 0, 2, 0, 2, 0, 2, 1, 2, 0, 2, 0, 2, 1, 2, 0, 2]
    assert indices == [1, 0, 0, 1, 2, 0, 3, 2, 0, 0, 1, 2, 2, 1, 0, 3, 0, 0, 1, 3, 0, 1, 2, 2]
    assert [
        order.by_lane(3, 20, first, last).tolist() for first, last in ((0, 6), (6, 13), (13, 20))
    ] == [
        [4, 6, 3, 5, 7, 8],
        [10, 12, 14, 9, 11, 13, 15],
        [16, 18, 20, 22, 17, 19, 21],
    ]


def test_the_order_of_a_large_dataset_is_frozen():
    order = Order([9000, 17, 30_000] * 30, seed=1, lanes=64, block=8192)
    located = np.stack(order.locate(np.arange(0, 3 * order.num_examples, 1013))).astype("<i8")
    digest = hashlib.sha256(located.tobytes()).hexdigest()
    assert digest == "a2776b3417b0c39b0049d1024932e3b3de39b21d2a3432b2429f564deb306699"


SHARDS, PER_SHARD = 1_000_000, 7500  # 7.5e9 examples


@pytest.mark.slow
def test_the_order_of_a_million_shards_takes_little_memory_and_names_real_examples():
    sizes = np.full(SHARDS, PER_SHARD)
    tracemalloc.start()
    try:
        order = Order(sizes, seed=0, lanes=64, block=4 * PER_SHARD)
        last = np.array([order.num_examples - 1])
        order.locate(last)  # lays out the epoch
        kept, peak = tracemalloc.get_traced_memory()
        for epoch in range(1, 5):
            order.locate(epoch * order.num_examples + last)
        kept_later, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= 64 * 2**20
    assert kept_later < 2.5 * kept  # two epochs: a batch may reach from one into the next
    positions = np.unique(np.random.default_rng(0).integers(0, order.num_examples, 100_000))
    epochs, shards, indices = order.locate(positions)
    assert not epochs.any()
    assert (shards.min(), indices.min()) >= (0, 0)
    assert shards.max() < SHARDS
    assert indices.max() < PER_SHARD
    assert len(np.unique(shards * PER_SHARD + indices)) == len(positions)


@pytest.mark.slow
def test_a_thousand_workers_share_a_batch_of_a_million_shards():
    order = Order(np.full(SHARDS, PER_SHARD), seed=0, lanes=64, block=4 * PER_SHARD)
    batch, world = 2**18, 1024
    mixture = Mixture([order], [0], [1.0])
    consumed = order.num_examples - batch // 2  # into the next epoch
    parts = [mixture.part(consumed, batch, rank, world) for rank in range(world)]
    assert {len(part.positions) for part in parts} == {batch // world}
    positions = np.sort(np.concatenate([part.positions for part in parts]))
    assert (positions == np.arange(consumed, consumed + batch)).all()
    for epoch in (0, 1):
        examples = np.concatenate(
            [(part.shards * PER_SHARD + part.indices)[part.epochs == epoch] for part in parts]
        )
        assert len(np.unique(examples)) == batch // 2
