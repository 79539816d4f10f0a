import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_diffusion.data.order import MAX_LANES, ORDER_VERSION, Order, key, permute

# A machine under load is no failure.
unhurried = settings(deadline=None, max_examples=60)

seeds = st.integers(0, 2**31 - 1)
shard_sizes = st.lists(st.integers(0, 40), min_size=1, max_size=20).filter(any)
lane_counts = st.none() | st.integers(1, 70)
blocks = st.integers(1, 200)
# World size, batch and steps between one start of a run and the next.
segments = st.lists(
    st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 6)), min_size=1, max_size=6
)


def stream(order: Order, start: int, stop: int) -> list[tuple[int, ...]]:
    """Epoch, shard and index at each position, one after the other."""
    return list(zip(*(a.tolist() for a in order.locate(np.arange(start, stop))), strict=True))


@unhurried
@given(st.integers(1, 3000), st.integers(-(2**63), 2**63 - 1))
def test_permute_is_a_permutation(n: int, k: int):
    assert sorted(permute(np.arange(n), n, key(k)).tolist()) == list(range(n))


@unhurried
@given(st.lists(st.integers(1, 60), min_size=1, max_size=20), seeds)
def test_permute_maps_each_point_in_its_own_domain(sizes: list[int], k: int):
    points = np.concatenate([np.arange(n) for n in sizes])
    domains = np.repeat(sizes, sizes)
    images = permute(points, domains, key(k))
    alone = np.concatenate([permute(np.arange(n), n, key(k)) for n in sizes])
    assert images.tolist() == alone.tolist()


@unhurried
@given(st.integers(2**40, 2**62), seeds)
def test_permute_reaches_points_of_a_domain_too_large_for_a_table(n: int, k: int):
    points = [0, 1, n // 2, n - 1]
    images = permute(points, n, key(k)).tolist()
    assert len(set(images)) == 4
    assert all(0 <= image < n for image in images)


@unhurried
@given(shard_sizes, seeds, st.integers(0, 5), lane_counts, blocks)
def test_an_epoch_is_a_bijection_onto_all_examples(
    sizes: list[int], seed: int, epoch: int, lanes: int | None, block: int
):
    order = Order(sizes, seed, lanes, block)
    n = order.num_examples
    seen = stream(order, epoch * n, (epoch + 1) * n)
    everything = [(epoch, shard, i) for shard, size in enumerate(sizes) for i in range(size)]
    assert sorted(seen) == everything


@unhurried
@given(shard_sizes, seeds, lane_counts, blocks, segments)
def test_any_series_of_world_sizes_and_batches_reads_the_uninterrupted_stream(
    sizes: list[int],
    seed: int,
    lanes: int | None,
    block: int,
    segments: list[tuple[int, int, int]],
):
    consumed, seen = 0, {}
    for world, batch, steps in segments:
        order = Order(sizes, seed, lanes, block)  # a new process, which knows `consumed` alone
        batch = max(batch, world)
        for _ in range(steps):
            parts = [order.rank_positions(consumed, batch, rank, world) for rank in range(world)]
            positions = np.concatenate(parts)
            assert sorted(positions.tolist()) == list(range(consumed, consumed + batch))
            found = zip(*(a.tolist() for a in order.locate(positions)), strict=True)
            seen.update(zip(positions.tolist(), found, strict=True))
            consumed += batch
    whole = stream(Order(sizes, seed, lanes, block), 0, consumed)
    assert [seen[position] for position in range(consumed)] == whole
    n = sum(sizes)
    for epoch in range(consumed // n):
        assert len(set(whole[epoch * n : (epoch + 1) * n])) == n


@unhurried
@given(
    shard_sizes,
    st.integers(0, 10_000),
    lane_counts,
    st.integers(1, 30).flatmap(lambda world: st.tuples(st.just(world), st.integers(world, 500))),
)
def test_parts_of_a_batch_differ_in_size_by_at_most_one(
    sizes: list[int], consumed: int, lanes: int | None, world_and_batch: tuple[int, int]
):
    world, batch = world_and_batch
    order = Order(sizes, 0, lanes)
    parts = [order.rank_positions(consumed, batch, rank, world) for rank in range(world)]
    lengths = [len(part) for part in parts]
    assert sum(lengths) == batch
    assert max(lengths) - min(lengths) <= 1


def test_a_batch_may_hold_several_epochs():
    order = Order([3, 4], seed=0)
    parts = [order.rank_positions(5, 30, rank, 4) for rank in range(4)]
    positions = np.concatenate(parts)
    assert sorted(positions.tolist()) == list(range(5, 35))
    epochs, shards, indices = (a.tolist() for a in order.locate(positions))
    examples = list(zip(epochs, shards, indices, strict=True))
    assert sorted(e for e in examples if 1 <= e[0] <= 4) == [
        (epoch, shard, i)
        for epoch in (1, 2, 3, 4)
        for shard, n in ((0, 3), (1, 4))
        for i in range(n)
    ]


def test_a_worker_keeps_its_lanes_where_they_divide_among_workers():
    order = Order([100] * 8, seed=3, lanes=8)
    for step in range(10):
        for rank in range(4):
            lanes = order.rank_positions(step * 80, 80, rank, 4) % 8
            assert set(lanes.tolist()) == {2 * rank, 2 * rank + 1}


def test_seeds_and_epochs_have_orders_of_their_own():
    def epoch(seed: int, number: int) -> list[tuple[int, ...]]:
        found = stream(Order([50, 50], seed), number * 100, (number + 1) * 100)
        return [(shard, i) for _, shard, i in found]

    orders = [epoch(0, 0), epoch(0, 1), epoch(1, 0), epoch(1, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_neighbours_of_a_shard_are_not_neighbours_in_the_order():
    found = stream(Order([1000], seed=0), 0, 1000)
    steps = np.abs(np.diff([i for _, _, i in found]))
    # The mean distance of two independent uniform draws from [0, n) is n / 3 (here 333, +- 8).
    assert 290 < steps.mean() < 376


@pytest.mark.parametrize(("shards", "lanes"), [(1, 1), (5, 5), (64, 64), (1000, MAX_LANES)])
def test_there_are_as_many_lanes_as_shards_up_to_a_limit(shards: int, lanes: int):
    assert Order([10] * shards, seed=0).lanes == lanes


def test_there_are_no_more_lanes_than_examples():
    assert Order([1, 1], seed=0, lanes=8).lanes == 2


def test_threads_share_an_order():
    order = Order([1], seed=0)  # each position is an epoch: far more than an order keeps at hand
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
    assert [order.rank_positions(3, 20, rank, 3).tolist() for rank in range(3)] == [
        [4, 6, 3, 5, 7, 8],
        [10, 12, 14, 9, 11, 13, 15],
        [16, 18, 20, 22, 17, 19, 21],
    ]


def test_the_order_of_a_large_dataset_is_frozen():
    order = Order([9000, 17, 30_000] * 30, seed=1)
    located = np.stack(order.locate(np.arange(0, 3 * order.num_examples, 1013))).astype("<i8")
    digest = hashlib.sha256(located.tobytes()).hexdigest()
    assert digest == "a2776b3417b0c39b0049d1024932e3b3de39b21d2a3432b2429f564deb306699"
