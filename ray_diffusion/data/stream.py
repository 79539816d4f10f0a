"""One worker's part of the endless stream of batches, read in this process or by others for it."""

import itertools
import warnings
from collections import deque
from collections.abc import Generator, Iterator
from typing import TypeVar

import numpy as np
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ray_diffusion.data.cache import ShardCache
from ray_diffusion.data.mixture import Located
from ray_diffusion.data.order import key
from ray_diffusion.data.reader import Batch, Reader
from ray_diffusion.data.shards import Shards
from ray_diffusion.data.training_set import TrainingSet
from ray_diffusion.errors import RayDiffusionError

MOST_AHEAD = 2**18  # examples that are looked through for shards to fetch; 8 MB of numbers
STEPS_AT_ONCE = 16  # that are located together: most of the cost is per call
NEW_STEPS_AHEAD = 8  # looked through per batch, lest the first one waits for all of them
BATCHES_AHEAD = 4  # that each helping process keeps ready
MIRROR = 11  # what a mirror image's key is for; any constant that no other use of `key` has

T = TypeVar("T")


class Stream(IterableDataset[Batch | RayDiffusionError]):
    """One worker's part of each global batch, without end.

    Picklable: processes that help to read each open files of their own, and take every n-th
    batch, so that a ``DataLoader`` puts them together in order.

    Args:
        data: What to read.
        seed: Of the order, and of which images are mirrored.
        consumed: Examples consumed before the first batch: the whole state of a reader.
        batch: Examples in a global batch, at least ``world``.
        rank: Which worker, in ``[0, world)``.
        world: Number of workers.
        mirror: Whether to mirror half of the images; which depends on seed, epoch and example.
    """

    def __init__(
        self,
        data: TrainingSet,
        seed: int,
        consumed: int,
        batch: int,
        rank: int = 0,
        world: int = 1,
        mirror: bool = False,
    ) -> None:
        self._data, self._seed, self._mirror = data, seed, mirror
        self._consumed, self._batch, self._rank, self._world = consumed, batch, rank, world

    def __iter__(self) -> Iterator[Batch | RayDiffusionError]:
        """Batches, and last the error that ended them: a loader would bury it in a traceback."""
        with self._shards() as shards:
            reader = Reader(shards, self._data.manifest, self._data.policy)
            for at in self._located(shards):
                try:
                    batch = reader.batch(at, self._mirrored(at))
                except RayDiffusionError as error:
                    yield error
                    return
                yield batch

    def examples(self) -> Generator[dict[str, str | bytes]]:
        """The same examples undecoded, as webdataset has them: a source for ``wds.DataPipeline``.

        Yields:
            ``__key__``, ``__url__`` and the bytes of each file by extension.

        Raises:
            DataError: If a shard cannot be read.
        """
        with self._shards() as shards:
            places = [str(place) for place in shards.places]
            for at in self._located(shards):
                for shard, index in zip(at.shards.tolist(), at.indices.tolist(), strict=True):
                    name, files = shards.read(shard, index)
                    yield {"__key__": name, "__url__": places[shard], **files}

    def _shards(self) -> Shards:
        data = self._data
        return Shards(data.places, ShardCache(data.cache_bytes), data.open_shards(self._world))

    def _mirrored(self, at: Located) -> np.ndarray | None:
        if not self._mirror:
            return None
        mirror: np.ndarray = key(self._seed, MIRROR, at.epochs, at.shards, at.indices) % 2 == 1
        return mirror

    def _located(self, shards: Shards) -> Iterator[Located]:
        """Where this process's batches lie; the shards of those to come are sent for meanwhile."""
        steps, ahead = self._steps(), deque[Located]()
        while True:
            for at in itertools.islice(steps, NEW_STEPS_AHEAD):
                shards.ask(dict.fromkeys(at.shards.tolist()))
                ahead.append(at)
                far = len(ahead) * len(at.positions) >= MOST_AHEAD
                if far or not shards.has_room_ahead:
                    break
            yield ahead.popleft()

    def _steps(self) -> Iterator[Located]:
        info = get_worker_info()
        first, every = (info.id, info.num_workers) if info else (0, 1)
        mixture = self._data.mixture(self._seed)
        for step in itertools.count(first, every * STEPS_AT_ONCE):
            some = range(step, step + every * STEPS_AT_ONCE, every)
            starts = [self._consumed + i * self._batch for i in some]
            yield from mixture.parts(starts, self._batch, self._rank, self._world)


def batches(stream: Stream, workers: int = 0, pin_memory: bool = False) -> Generator[Batch]:
    """Read a stream.

    Args:
        stream: Which.
        workers: Processes that read and decode ahead; 0: this one, when asked.
        pin_memory: Whether to keep batches in page-locked memory, for faster copies to a GPU.

    Yields:
        This worker's part of the next global batch.

    Raises:
        DataError: If the data cannot be read.
        StorageError: If the storage cannot be read.
    """
    with warnings.catch_warnings():
        # The user says how many workers; torch would doubt it on small machines.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        loader = DataLoader(
            stream,
            batch_size=None,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=pin_memory,
            # Not fork: the clients of object stores and CUDA do not survive it.
            multiprocessing_context="spawn" if workers else None,
            prefetch_factor=BATCHES_AHEAD if workers else None,
        )
        found = iter(loader)
    try:
        for item in found:
            if isinstance(item, RayDiffusionError):
                raise item
            yield item
    finally:
        del found  # ends the processes, even while a traceback keeps this frame


def _as_it_is(batch: T) -> T:
    return batch
