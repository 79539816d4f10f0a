"""The order of examples: a pure function of position, the same for any number of workers.

Training reads an endless stream of epochs. Position ``p`` of the stream names one example, and
``p`` alone, with the seed and the shard sizes, decides which. So the state of a reader is one
integer, the number of examples consumed; a run may stop anywhere and go on with another number of
workers or another batch size, and still read each example exactly once per epoch.

Three ideas make it cheap at any size:

* **Feistel permutation.** A keyed block cipher on ``[0, n)`` is a permutation that can be
  evaluated at one point in O(1), without a table of n entries (Black and Rogaway 2002, "Ciphers
  with arbitrary finite domains": cycle walking). Its arithmetic is frozen here, so the order
  outlives any library's generator.
* **Lanes.** The permuted line of shards is cut into equal ranges that are read in turn. A worker
  serves the same lanes for a whole epoch, so each shard is downloaded by one worker, not by all.
* **Blocks.** Within a lane, runs of ``block`` examples are shuffled, so that only about
  ``block / shard size`` shards of a lane are open at once. Where blocks end differs from lane to
  lane, so that their downloads do not come in bursts.
"""

from collections.abc import Sequence
from functools import lru_cache, partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

ORDER_VERSION = 1  # raise it with any change of the arithmetic: checkpoints refuse another order

Int = NDArray[np.int64]
_U64 = np.uint64
_ROUNDS = 6
_GOLDEN = 0x9E3779B97F4A7C15
_AT_ONCE = 1 << 16  # shards; more would take memory and gain nothing


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014)."""
    x = (x ^ (x >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> _U64(27))) * _U64(0x94D049BB133111EB)
    return x ^ (x >> _U64(31))


def key(*parts: ArrayLike) -> NDArray[np.uint64]:
    """Hash integers, broadcast against each other, into 64-bit keys."""
    hashed = np.zeros(1, _U64)
    for part in parts:
        hashed = _mix(hashed + _U64(_GOLDEN) + np.asarray(part, np.int64).astype(_U64))
    return hashed


def permute(x: ArrayLike, n: ArrayLike, keys: NDArray[np.uint64]) -> Int:
    """Evaluate a keyed permutation of ``[0, n)`` at ``x``.

    Args:
        x: Points to map, each in ``[0, n)``.
        n: Size of the domain, at least 1; one for all or one per point.
        keys: One for all or one per point.

    Returns:
        The images of the points, int64.
    """
    points = np.atleast_1d(np.asarray(x, np.int64)).astype(_U64)
    sizes = np.broadcast_to(np.asarray(n, np.int64).astype(_U64), points.shape)
    keys = np.broadcast_to(keys, points.shape)
    # Half the bits of the smallest even-bit domain that holds [0, n).
    half = np.ceil(np.log2(np.maximum(sizes, _U64(2)).astype(np.float64)) / 2 + 1e-9).astype(_U64)
    out, todo = points.copy(), np.arange(points.size)
    while todo.size:
        bits, value, k = half[todo], out[todo], keys[todo]
        mask = (_U64(1) << bits) - _U64(1)
        left, right = value >> bits, value & mask
        for i in range(_ROUNDS):
            tweak = _U64(i * 0x632BE59BD9B4E019 % 2**64)
            left, right = right, left ^ (_mix(right + k + tweak) & mask)
        value = (left << bits) | right
        out[todo] = value
        todo = todo[value >= sizes[todo]]  # outside [0, n): walk the cycle on
    return out.astype(np.int64)


def part(batch: int, rank: int, world: int) -> range:
    """Which places of a global batch a worker holds; parts differ in size by one at most.

    Args:
        batch: Examples in the global batch, at least ``world``.
        rank: Which worker, in ``[0, world)``.
        world: Number of workers.
    """
    return range(rank * batch // world, (rank + 1) * batch // world)


class _Epoch:
    """The order within one epoch: position in ``[0, N)`` -> (shard, index within it)."""

    def __init__(self, sizes: Int, seed: int, epoch: int, lanes: int, block: int) -> None:
        self._seed, self._epoch, self._lanes, self._block = seed, epoch, lanes, block
        line, keys = np.arange(len(sizes)), key(seed, epoch, 1)
        self._shards = np.concatenate(
            [
                permute(line[start : start + _AT_ONCE], len(sizes), keys)
                for start in range(0, len(sizes), _AT_ONCE)
            ]
        )
        self._ends = np.cumsum(sizes[self._shards])
        self._lane_length, self._longer_lanes = divmod(int(sizes.sum()), lanes)

    def __call__(self, position: Int) -> tuple[Int, Int]:
        lane, i = position % self._lanes, position // self._lanes
        lane_start = lane * self._lane_length + np.minimum(lane, self._longer_lanes)
        length = self._lane_length + (lane < self._longer_lanes)
        stagger = key(self._seed, self._epoch, 3) ^ key(lane)
        offset = (stagger % _U64(self._block)).astype(np.int64)
        block = (i + offset) // self._block
        start = np.maximum(block * self._block - offset, 0)
        size = np.minimum((block + 1) * self._block - offset, length) - start
        keys = key(self._seed, self._epoch, 2) ^ key(lane) ^ key(block, 7)
        line = lane_start + start + permute(i - start, size, keys)
        shard = np.searchsorted(self._ends, line, side="right")
        before = np.where(shard > 0, self._ends[shard - 1], 0)
        return self._shards[shard], line - before


class Order:
    """The endless stream of examples of a split.

    Args:
        sizes: Examples of each shard, in manifest order.
        seed: Another seed is another order.
        lanes: Ranges read in turn, at least 1. It must not depend on the number of workers, or
            the order would; see ``locality.py``.
        block: Examples of a lane that are shuffled together, at least 1.
    """

    def __init__(self, sizes: Sequence[int], seed: int, lanes: int, block: int) -> None:
        self._sizes = np.asarray(sizes, np.int64)
        self.num_examples = int(self._sizes.sum())
        self.lanes = min(lanes, self.num_examples)
        # A batch straddles two epochs at most, at any real size.
        self._epoch = lru_cache(maxsize=2)(
            partial(_Epoch, self._sizes, seed, lanes=self.lanes, block=block)
        )

    def locate(self, positions: Int) -> tuple[Int, Int, Int]:
        """Which examples stand at positions of the stream.

        Args:
            positions: Non-negative, int64, shape ``(n,)``.

        Returns:
            Epoch, shard and index within the shard of each, int64, shape ``(n,)``.
        """
        epochs = positions // self.num_examples
        shards, indices = np.empty_like(positions), np.empty_like(positions)
        for epoch in np.unique(epochs):
            at = epochs == epoch
            shards[at], indices[at] = self._epoch(int(epoch))(
                positions[at] - epoch * self.num_examples
            )
        return epochs, shards, indices

    def by_lane(self, consumed: int, batch: int, first: int, last: int) -> Int:
        """A part of the positions ``[consumed, consumed + batch)`` sorted by lane.

        Workers that each take the same part of every batch keep their lanes. Cost:
        O(last - first + lanes).

        Args:
            consumed: Examples consumed before this batch.
            batch: Examples in the batch.
            first: Where the part begins in the sorted batch.
            last: Where it ends, at most ``batch``.

        Returns:
            Positions of the stream, int64, shape ``(last - first,)``.
        """
        parts, done = [np.empty(0, np.int64)], 0
        while done < batch:  # one turn, or more where the batch reaches into further epochs
            start = consumed + done
            within = start % self.num_examples
            count = min(batch - done, self.num_examples - within)
            # Offset of each lane's first position behind `start`, and how many it has in the turn.
            offsets = (np.arange(self.lanes) - within) % self.lanes
            ends = np.cumsum(np.maximum(0, (count - 1 - offsets) // self.lanes + 1))
            j = np.arange(max(first - done, 0), min(last - done, count))
            lane = np.searchsorted(ends, j, side="right")
            before = np.where(lane > 0, ends[lane - 1], 0)
            parts.append(start + offsets[lane] + (j - before) * self.lanes)
            done += count
        return np.concatenate(parts)
