"""How a dataset's order is laid out so that it is well mixed and its shards fit the cache."""

from collections.abc import Sequence
from typing import NamedTuple

from ray_diffusion.data.manifest import Shard

MAX_LANES = 64
MIXED_SHARDS = 256  # that a batch draws from; fewer leave class-sorted shards visible in batches


class Locality(NamedTuple):
    """How an order is laid out; see ``order.py``.

    Attributes:
        lanes: Ranges of shards that are read side by side.
        block: Examples of a lane that are shuffled together.
    """

    lanes: int
    block: int


def open_shards(locality: Locality, sizes: Sequence[int], world: int) -> int:
    """How many shards one worker reads from at a time.

    A lane reads the shards of one block, and of the next while the block ends.

    Args:
        locality: How the order is laid out.
        sizes: Examples of each shard.
        world: Number of workers; each serves its share of the lanes.
    """
    shards_per_block = -(-locality.block * len(sizes) // sum(sizes)) + 1
    lanes = -(-locality.lanes // world)
    return min(len(sizes), lanes * (shards_per_block + 1))


def choose_locality(shards: Sequence[Shard], batch: int, cache_bytes: int) -> Locality:
    """Choose the layout of a split's order.

    As many lanes as shards, at most 64, and if possible a divisor of the batch: then each worker
    keeps its lanes, and each shard is read by one worker alone. Blocks so long that a batch draws
    from 256 shards. Both shrink until what a single node would read from at once takes half of
    the cache; the other half is for what comes next. Nothing depends on the number of workers,
    so that the order does not.

    Args:
        shards: The shards of the split.
        batch: Examples of a global batch.
        cache_bytes: Disk that shards may take.
    """
    fit = cache_bytes // 2 // max(shard.bytes for shard in shards)
    most = max(1, min(MAX_LANES, len(shards), fit // 3))
    divisors = [lanes for lanes in range(most, most // 2, -1) if batch % lanes == 0]
    lanes = divisors[0] if divisors else most
    mixed = min(-(-MIXED_SHARDS // lanes), -(-len(shards) // lanes))
    shards_per_block = max(1, min(mixed, fit // lanes - 2))  # beside what `open_shards` adds
    examples = sum(shard.examples for shard in shards)
    return Locality(lanes, max(1, shards_per_block * examples // len(shards)))


def explain(locality: Locality, shards: Sequence[Shard]) -> str:
    """The layout in words, with the disk that one node needs if it reads everything."""
    sizes = [shard.examples for shard in shards]
    at_once = open_shards(locality, sizes, world=1)
    megabytes = at_once * max(shard.bytes for shard in shards) / 1e6
    return (
        f"{locality.lanes} lanes, blocks of {locality.block:,} examples: a batch draws from "
        f"{at_once:,} of {len(shards):,} shards, {megabytes:,.0f} MB"
    )
