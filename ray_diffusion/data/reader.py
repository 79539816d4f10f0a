"""A dataset split as batches, in the order of ``order.py``."""

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ray_diffusion.data.builtin import resolve
from ray_diffusion.data.cache import ShardCache
from ray_diffusion.data.manifest import Manifest, read_manifest
from ray_diffusion.data.order import Int, Order, key
from ray_diffusion.data.shards import Shards
from ray_diffusion.errors import DataError

DECODED_BYTES = 64 * 2**20  # of decoded images that a split keeps in memory
FLIP = 11  # what a flip's key is for; any constant that no other use of `key` has


class Batch(NamedTuple):
    """Some examples of one split.

    Attributes:
        images: uint8, shape ``(B, C, H, W)``.
        labels: int64, shape ``(B,)``.
        positions: Where each stands in the stream (or in the split), int64, shape ``(B,)``.
    """

    images: Tensor
    labels: Tensor
    positions: Int


class Dataset:
    """One split of a dataset, ready to be read.

    Args:
        url: A path, a URL, or ``builtin:NAME``.
        split: ``"train"`` or ``"val"``.
        image_size: Side of the images, pixels; a built-in dataset is packed at this size.
        cache_bytes: Disk that downloaded shards may take.

    Raises:
        DataError: If there is no such dataset, its images have another size, or the split is empty.
    """

    def __init__(self, url: str, split: str, image_size: int, cache_bytes: int) -> None:
        self.url = resolve(url, image_size)
        self.manifest: Manifest = read_manifest(self.url)
        if self.manifest.image_size != image_size:
            raise DataError(
                f"{self.url} holds images of {self.manifest.image_size} pixels, "
                f"data.image_size asks for {image_size}"
            )
        if not self.manifest.examples(split):
            raise DataError(f"{self.url} has no examples in its '{split}' split")
        self.sizes = [shard.examples for shard in self.manifest.splits[split]]
        self._ends = np.cumsum(self.sizes)
        self._shards = Shards(ShardCache(self.url, cache_bytes), self.manifest, split)
        # Small sets are decoded once, not once an epoch; of large ones this keeps next to nothing.
        image_bytes = self.manifest.channels * image_size**2
        self._example = lru_cache(DECODED_BYTES // image_bytes)(self._shards.example)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, start: int, stop: int) -> Batch:
        """The examples ``[start, stop)`` of the split in the order of its shards."""
        return self.at(range(start, min(stop, len(self))))

    def spread(self, count: int) -> list[int]:
        """So many positions evenly spread over the split; all of them where it has less."""
        count = min(count, len(self))
        return [i * len(self) // count for i in range(count)]

    def at(self, positions: Sequence[int]) -> Batch:
        """The examples at some positions of the split, in the order of its shards."""
        at = np.asarray(positions, dtype=np.int64)
        shards = np.searchsorted(self._ends, at, side="right")
        indices = at - np.where(shards > 0, self._ends[shards - 1], 0)
        return self._fetch(shards, indices, at, np.zeros(len(at), bool))

    def stream(
        self,
        order: Order,
        consumed: int,
        batch: int,
        rank: int,
        world: int,
        threads: int = 0,
        flip_seed: int | None = None,
    ) -> Generator[Batch]:
        """One worker's part of each global batch, without end.

        Args:
            order: The order of the examples.
            consumed: Where in the stream to begin.
            batch: Examples in a global batch.
            rank: Which worker, in ``[0, world)``.
            world: Number of workers.
            threads: Threads that read and decode ahead; 0 reads when asked.
            flip_seed: Mirror half of the images; which ones depends on this seed, the epoch and
                the example. None mirrors none.

        Yields:
            The worker's part of the next global batch.
        """

        def fetch(step: int) -> Batch:
            positions = order.rank_positions(consumed + step * batch, batch, rank, world)
            epochs, shards, indices = order.locate(positions)
            flips = np.zeros(len(positions), bool)
            if flip_seed is not None:
                flips = key(flip_seed, FLIP, epochs, shards, indices) % np.uint64(2) == 1
            return self._fetch(shards, indices, positions, flips)

        steps = iter(range(2**62))
        if not threads:
            yield from map(fetch, steps)
        with ThreadPoolExecutor(threads, thread_name_prefix="reader") as pool:
            ahead: deque[Future[Batch]] = deque(
                pool.submit(fetch, step) for step in islice(steps, 2 * threads)
            )
            try:
                while True:
                    yield ahead.popleft().result()
                    ahead.append(pool.submit(fetch, next(steps)))
            finally:
                pool.shutdown(cancel_futures=True)

    def close(self) -> None:
        """Close all files."""
        self._shards.close()

    def _fetch(self, shards: Int, indices: Int, positions: Int, flips: np.ndarray) -> Batch:
        images, labels = [], []
        for shard, i, flip in zip(shards.tolist(), indices.tolist(), flips.tolist(), strict=True):
            image, label = self._example(shard, i)
            images.append(image[:, :, ::-1] if flip else image)
            labels.append(label)
        return Batch(torch.from_numpy(np.stack(images)), torch.tensor(labels), positions)
