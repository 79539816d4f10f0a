from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_diffusion.data.locality import (
    MIXED_SHARDS,
    Locality,
    choose_locality,
    explain,
    open_shards,
)
from ray_diffusion.data.manifest import Shard
from ray_diffusion.data.mixture import Mixture
from ray_diffusion.data.order import Order

PLENTY = 10**12  # bytes
SIZE = 1000  # bytes of a shard


def shards(count: int, examples: int = 200) -> list[Shard]:
    return [Shard(f"{i}.tar", examples, SIZE, 0, "") for i in range(count)]


def mixed(locality: Locality, sizes: Sequence[int]) -> Mixture:
    return Mixture([Order(sizes, 0, *locality)], [0], [1.0])


@pytest.mark.parametrize(
    ("count", "batch", "lanes"),
    [
        (1, 128, 1),
        (5, 128, 4),  # the largest divisor of the batch in the upper half
        (5, 35, 5),
        (64, 256, 64),
        (1000, 256, 64),
        (1000, 240, 60),
        (1000, 127, 64),  # a prime: no divisor in reach
        (1000, 2 * 31, 62),
        (1000, 4 * 37, 37),
    ],
)
def test_there_are_as_many_lanes_as_shards_up_to_64_and_a_divisor_of_the_batch_if_near(
    count: int, batch: int, lanes: int
):
    assert choose_locality(shards(count), batch, PLENTY).lanes == lanes


@pytest.mark.parametrize(
    ("count", "shards_per_block"), [(4, 1), (64, 1), (128, 2), (256, 4), (10_000, 4)]
)
def test_a_block_is_so_long_that_a_batch_draws_from_256_shards(count: int, shards_per_block: int):
    locality = choose_locality(shards(count), 64, PLENTY)
    assert locality.block == shards_per_block * 200
    assert locality.lanes * shards_per_block == min(count, MIXED_SHARDS)


@given(
    st.integers(1, 2000),
    st.integers(1, 500),
    st.integers(0, 99),
    st.integers(1, 5000),
    st.integers(3, 1000),
)
def test_what_one_node_reads_at_a_time_takes_half_of_the_cache(
    count: int, most: int, seed: int, batch: int, fit: int
):
    examples = np.random.default_rng(seed).integers(1, most, count, endpoint=True).tolist()
    listed = [Shard(f"{i}.tar", n, SIZE * n, 0, "") for i, n in enumerate(examples)]
    cache_bytes = 2 * fit * SIZE * max(examples)
    locality = choose_locality(listed, batch, cache_bytes)
    assert open_shards(locality, examples, world=1) * SIZE * max(examples) <= cache_bytes / 2


@pytest.mark.parametrize("fit", [1, 2, 4])
def test_a_cache_of_few_shards_is_read_one_lane_at_a_time(fit: int):
    locality = choose_locality(shards(1000), 256, fit * SIZE)
    assert locality == Locality(lanes=1, block=200)


@settings(max_examples=40)
@given(
    st.integers(1, 12),
    st.integers(1, 40),
    st.integers(1, 8),
    st.integers(1, 200),
    st.integers(1, 6),
)
def test_a_batch_reads_no_more_shards_than_are_said_to_be_open(
    count: int, size: int, lanes: int, block: int, world: int
):
    sizes = [size] * count
    locality = Locality(min(lanes, sum(sizes)), block)
    batch = locality.lanes  # one example of each lane: no lane goes from block to block in it
    order = mixed(locality, sizes)
    for consumed in range(0, sum(sizes) - batch, batch):
        part = order.part(consumed, batch, 0, world)
        assert len(set(part.shards.tolist())) <= open_shards(locality, sizes, world)


def reopened(locality: Locality, sizes: Sequence[int], batch: int, most_open: int) -> float:
    """How often a shard is opened in an epoch, on average, where the longest unused is closed."""
    order, opened = mixed(locality, sizes), 0
    recent: dict[int, None] = {}
    for consumed in range(0, sum(sizes), batch):
        for shard in order.part(consumed, batch, 0, 1).shards.tolist():
            opened += shard not in recent
            recent.pop(shard, None)
            recent[shard] = None
            if len(recent) > most_open:
                del recent[next(iter(recent))]
    return opened / len(sizes)


@pytest.mark.parametrize("fit", [3, 12, 48, 192])
def test_a_shard_is_opened_once_in_an_epoch(fit: int):
    found = shards(128, examples=50)
    sizes = [shard.examples for shard in found]
    locality = choose_locality(found, 64, 2 * fit * SIZE)
    most_open = open_shards(locality, sizes, 1)
    assert reopened(locality, sizes, 64, most_open) == 1
    assert reopened(locality, sizes, 64, most_open - locality.lanes) > 1  # it takes that many


def amplification(locality: Locality, sizes: Sequence[int], batch: int, world: int) -> float:
    """Distinct pairs of a worker and a shard in an epoch, by shards."""
    order, pairs = mixed(locality, sizes), set()
    for consumed in range(0, sum(sizes) - batch + 1, batch):
        for rank in range(world):
            part = order.part(consumed, batch, rank, world)
            pairs |= {(rank, shard) for shard in part.shards.tolist()}
    return len(pairs) / len(sizes)


@pytest.mark.parametrize("world", [1, 4, 32])
def test_each_shard_is_read_by_one_worker_where_lanes_divide_among_workers(world: int):
    sizes = [40] * 128
    assert amplification(Locality(32, 80), sizes, 128, world) == 1


def test_without_lanes_every_worker_reads_every_shard():
    assert amplification(Locality(1, 40), [40] * 16, 40, 8) > 7.5


def test_the_chosen_lanes_divide_among_the_usual_numbers_of_workers():
    found = shards(128, examples=40)
    sizes = [shard.examples for shard in found]
    locality = choose_locality(found, 128, PLENTY)
    for world in (2, 8):
        assert amplification(locality, sizes, 128, world) == 1


@pytest.mark.parametrize("fit", [16, 64, 10**6])
def test_batches_of_class_sorted_shards_mix_the_classes_as_far_as_blocks_allow(fit: int):
    classes, batch, count = 10, 200, 400
    found = shards(count, examples=100)
    sizes = [shard.examples for shard in found]
    locality = choose_locality(found, batch, 2 * fit * SIZE)
    order, expected = mixed(locality, sizes), batch / classes
    statistics = []
    for step in range(sum(sizes) // batch):
        shard = order.part(step * batch, batch, 0, 1).shards
        counts = np.bincount(shard * classes // count, minlength=classes)
        statistics.append(((counts - expected) ** 2 / expected).sum() / (classes - 1))
    # Independent draws have a mean of 1. Each further example of a lane is of the class of one
    # before it if it is of the same shard, which of k shards in a block happens once in k times
    # at most. With plenty of disk that is 1.5; shards read in turn would have 200.
    shards_per_block = locality.block / 100
    assert np.mean(statistics) < 1 + (batch / locality.lanes - 1) / shards_per_block
    if fit == 10**6:
        assert np.mean(statistics) < 1.5


def test_a_layout_is_told_in_one_line():
    assert explain(Locality(8, 400), shards(1000)) == (
        "8 lanes, blocks of 400 examples: a batch draws from 32 of 1,000 shards, 0 MB"
    )
