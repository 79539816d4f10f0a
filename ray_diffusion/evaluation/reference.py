"""The real images that drawn ones are held against."""

from collections.abc import Iterator

from ray_diffusion.data.reader import Batch, Dataset

# Shards are shuffled when they are packed, so the first images stand for all. Distances between
# this many and as many drawn ones take seconds.
REFERENCE_IMAGES = 10_000
BATCH = 512  # images read, or sent through a network, at once


def in_batches(dataset: Dataset, limit: int | None = None) -> Iterator[Batch]:
    """The first images of a split, a batch at a time.

    Args:
        dataset: The split.
        limit: How many; None for all.

    Yields:
        Batches, in the order of the split.
    """
    count = len(dataset) if limit is None else min(limit, len(dataset))
    for start in range(0, count, BATCH):
        yield dataset.read(start, min(start + BATCH, count))
