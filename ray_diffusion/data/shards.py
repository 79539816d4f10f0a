"""The examples of open shards, and the shards that come next, on their way here."""

import os
import tarfile
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Self

from ray_diffusion.data.cache import CacheFull, ShardCache
from ray_diffusion.data.manifest import Shard
from ray_diffusion.data.tar import Member, index
from ray_diffusion.errors import DataError
from ray_diffusion.storage import Directory

DOWNLOADS = 16  # at a time; object stores serve each connection slowly, and many of them at once
AHEAD = 2 * DOWNLOADS  # shards that are here or on their way before the first read of them


class Place(NamedTuple):
    """A shard and the dataset that it belongs to."""

    dataset: Directory
    shard: Shard

    def __str__(self) -> str:
        return f"{self.dataset.url}/{self.shard.name}"


class Shards:
    """Random access to the files of examples; of one thread, while others download.

    Args:
        places: The shards, in the order by which they are numbered; stays readable.
        cache: Opens them.
        most_open: Shards that stay open once they were read; an open one is not evicted.
    """

    def __init__(self, places: Sequence[Place], cache: ShardCache, most_open: int) -> None:
        self.places, self._cache, self._most_open = places, cache, most_open
        self._open: OrderedDict[int, tuple[int, list[Member]]] = OrderedDict()
        self._coming: dict[int, Future[int]] = {}
        self._wanted: dict[int, None] = {}  # in the order asked for, once there is room for more
        self._pool = ThreadPoolExecutor(DOWNLOADS, thread_name_prefix="shards")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    @property
    def has_room_ahead(self) -> bool:
        """Whether more shards could be on their way than were asked for."""
        return not self._wanted and len(self._coming) < AHEAD

    def ask(self, shards: Iterable[int]) -> None:
        """Have shards brought to this machine, in this order, while the caller goes on."""
        for shard in shards:
            if shard not in self._open and shard not in self._coming:
                self._wanted[shard] = None
        self._send_for_wanted()

    def read(self, shard: int, position: int) -> tuple[str, dict[str, bytes]]:
        """The files of one example.

        Args:
            shard: The number of its shard.
            position: Its index within the shard.

        Returns:
            Its key, and the content of each of its files by extension.

        Raises:
            DataError: If the shard cannot be read.
            StorageError: If the storage cannot be read.
        """
        descriptor, members = self._opened(shard)
        key, fields = members[position]
        return key, {name: os.pread(descriptor, size, at) for name, (at, size) in fields.items()}

    def close(self) -> None:
        """Close all shards and give up what has not come yet."""
        self._pool.shutdown(cancel_futures=True)
        while self._coming:
            _give_up(self._coming.popitem()[1])
        while self._open:
            self._close_oldest()

    def _close_oldest(self) -> None:
        os.close(self._open.popitem(last=False)[1][0])

    def _send_for_wanted(self) -> None:
        while self._wanted and len(self._coming) < AHEAD:
            self._send_for(next(iter(self._wanted)))

    def _send_for(self, shard: int) -> None:
        self._wanted.pop(shard, None)
        self._coming[shard] = self._pool.submit(self._cache.open, *self.places[shard])

    def _opened(self, shard: int) -> tuple[int, list[Member]]:
        if shard not in self._open:
            descriptor = self._arrived(shard)
            try:
                self._open[shard] = descriptor, self._indexed(shard, descriptor)
            except DataError:
                os.close(descriptor)
                raise
            while len(self._open) > self._most_open:
                self._close_oldest()
            self._send_for_wanted()
        self._open.move_to_end(shard)
        return self._open[shard]

    def _arrived(self, shard: int) -> int:
        if shard not in self._coming:
            self._send_for(shard)
        while True:
            try:
                return self._coming.pop(shard).result()
            except CacheFull:
                if not self._give_way():
                    raise
                self._send_for(shard)

    def _give_way(self) -> bool:
        """Let go of a shard, for what we hold ourselves may be what is in the way."""
        if self._open:
            self._close_oldest()
            return True
        while self._coming:  # from the one that is needed last
            shard, future = self._coming.popitem()
            self._wanted = {shard: None, **self._wanted}
            if _give_up(future):
                return True
        return False

    def _indexed(self, shard: int, descriptor: int) -> list[Member]:
        place = self.places[shard]
        try:
            members = index(descriptor, verified=True)
        except (tarfile.TarError, OSError) as error:
            raise DataError(f"{place} is not a tar file: {error}") from error
        if len(members) != place.shard.examples:
            raise DataError(
                f"{place} holds {len(members)} examples, the manifest says {place.shard.examples}"
            )
        return members


def _give_up(download: Future[int]) -> bool:
    """Close the shard that a download brought; False where it brought none."""
    if download.cancel() or download.exception() is not None:
        return False
    os.close(download.result())
    return True
