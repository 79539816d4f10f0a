"""Several datasets read as one stream, each example at a place that its number alone decides.

Which dataset a position of the stream belongs to follows a fixed pattern, repeated for ever, in
which the datasets are spread as evenly as their weights allow: after any number of positions each
dataset has had its share, to within one example. So a run stops and goes on anywhere, as with one
dataset.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ray_diffusion.data.order import Int, Order, part

PERIOD = 1024  # places of the pattern; weights are rounded to whole places


class Located(NamedTuple):
    """Which examples stand at some positions of the stream; int64, each of shape ``(n,)``.

    Attributes:
        positions: In the stream.
        epochs: Of the dataset that an example belongs to.
        shards: Numbered on through all datasets.
        indices: Within the shard.
    """

    positions: Int
    epochs: Int
    shards: Int
    indices: Int


def _pattern(weights: Sequence[float]) -> Int:
    """The dataset of each place: of those that are not ahead, the one that is due first.

    Balinski and Young 1975, "The quota method of apportionment". To take the one that is furthest
    behind would do worse: where there are many, it leaves some behind by two.
    """
    share = np.asarray(weights, np.float64) / np.sum(weights)
    # Whole places stay whole, whatever the sum lost in rounding.
    places = np.maximum(1, np.floor(share * PERIOD + 1e-6)).astype(np.int64)
    had, pattern = np.zeros_like(places), np.empty(places.sum(), np.int64)
    for i in range(len(pattern)):
        ahead = had * len(pattern) >= places * (i + 1)
        pattern[i] = np.argmin(np.where(ahead, np.inf, (had + 1) / places))
        had[pattern[i]] += 1
    return pattern


class Mixture:
    """The stream of examples of one dataset or several.

    Args:
        orders: The order of each dataset.
        first_shards: The number of the first shard of each dataset.
        weights: How often an example comes from each, relative to each other; positive.
    """

    def __init__(
        self, orders: Sequence[Order], first_shards: Sequence[int], weights: Sequence[float]
    ) -> None:
        self._orders, self._first_shards = orders, first_shards
        pattern = _pattern(weights) if len(orders) > 1 else np.zeros(1, np.int64)
        self._period = len(pattern)
        self._places = [np.flatnonzero(pattern == i) for i in range(len(orders))]

    def part(self, consumed: int, batch: int, rank: int, world: int) -> Located:
        """One worker's part of the global batch at ``[consumed, consumed + batch)``.

        Parts differ in size by at most one.

        Args:
            consumed: Examples consumed before this batch.
            batch: Examples in the global batch, at least ``world``.
            rank: Which worker, in ``[0, world)``.
            world: Number of workers.
        """
        return self.parts([consumed], batch, rank, world)[0]

    def parts(self, starts: Sequence[int], batch: int, rank: int, world: int) -> list[Located]:
        """One worker's parts of several global batches, for little more than the cost of one.

        Args:
            starts: Where each batch begins in the stream.
            batch: See ``part``.
            rank: See ``part``.
            world: See ``part``.
        """
        slices = [self._slices(start, batch, rank, world) for start in starts]
        located = [
            self._located(source, [slices_of[source] for slices_of in slices])
            for source in range(len(self._orders))
        ]
        return [
            Located(*map(np.concatenate, zip(*of_step, strict=True)))
            for of_step in zip(*located, strict=True)
        ]

    def _slices(self, consumed: int, batch: int, rank: int, world: int) -> list[Int]:
        """The positions within each dataset that a worker's part of a batch has."""
        places, slices, before = part(batch, rank, world), [], 0
        for source, order in enumerate(self._orders):
            start = self._count(source, consumed)
            count = self._count(source, consumed + batch) - start
            own = np.clip((places.start - before, places.stop - before), 0, count).tolist()
            slices.append(order.by_lane(start, count, *own))
            before += count
        return slices

    def _located(self, source: int, slices: Sequence[Int]) -> list[Located]:
        """Where the examples at slices of one dataset's positions are."""
        local, places = np.concatenate(slices), self._places[source]
        epochs, shards, indices = self._orders[source].locate(local)
        turns, place = np.divmod(local, len(places))
        positions = turns * self._period + places[place]
        found = (positions, epochs, shards + self._first_shards[source], indices)
        ends = np.cumsum([len(one) for one in slices])[:-1]
        return [Located(*parts) for parts in zip(*(np.split(a, ends) for a in found), strict=True)]

    def _count(self, source: int, position: int) -> int:
        """How many of the first positions of the stream belong to a dataset."""
        turns, rest = divmod(position, self._period)
        places = self._places[source]
        return turns * len(places) + int(np.searchsorted(places, rest))
