"""Shards on this machine's disk: downloaded once per node, verified, bounded in size."""

import errno
import fcntl
import os
import random
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ray_diffusion.data.manifest import Shard
from ray_diffusion.errors import DataError, EnvironmentFailure, StorageError
from ray_diffusion.storage import Directory, explained, make_cache_dir

CHUNK = 1 << 20  # bytes
LOCKS = 256  # files that downloads are locked by; two shards that share one merely take turns
TRIES = 10  # of a download: where every third fails, of 10,000 shards none should fail for good
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 8.0  # between tries; doubled each time, then drawn at random


class CacheFull(StorageError):
    """All that the cache holds is in use, and one more shard would not fit."""


class Missing(DataError):
    """The manifest lists a shard that the storage does not hold."""


def _size_and_crc32(descriptor: int) -> tuple[int, int]:
    size, crc32 = 0, 0
    while chunk := os.pread(descriptor, CHUNK, size):
        size, crc32 = size + len(chunk), zlib.crc32(chunk, crc32)
    return size, crc32


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with explained("lock", str(path)):
        lock = path.open("w")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # between threads as well: each opens the file itself
        yield


class ShardCache:
    """Opens shards, downloading what is not on this machine.

    A cached file is named by its content (CRC and length), so datasets cannot be mixed up and all
    processes of a node share one copy. An open shard carries a shared lock, which the kernel takes
    back from a process that dies: whatever nobody has locked may be evicted, the longest unused
    first. A dataset on a local path is read in place.

    Args:
        limit: Bytes that the files of the cache may take, those still coming included.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._verified: set[tuple[str, str]] = set()

    def open(self, dataset: Directory, shard: Shard) -> int:
        """Open a shard for reading; threads may do so at the same time.

        Args:
            dataset: Where the shard belongs to.
            shard: Which.

        Returns:
            A file descriptor, the caller's to close. The shard is not evicted while it is open.

        Raises:
            DataError: If the shard is missing, or not what the manifest says.
            StorageError: If the storage cannot be read, or the cache cannot be written.
            CacheFull: If the shard does not fit beside those that are open.
        """
        local = dataset.local_path()
        if local is not None:
            return self._in_place(dataset, local / shard.name, shard)
        directory = make_cache_dir("shards")
        path = directory / f"{shard.crc32:08x}-{shard.bytes}.tar"
        lock = directory / f"{shard.crc32 % LOCKS:02x}.lock"
        with _locked(lock), explained("use", str(path)):  # one download per node
            descriptor = self._present(path, dataset, shard)
            return self._downloaded(path, dataset, shard) if descriptor is None else descriptor

    def _in_place(self, dataset: Directory, path: Path, shard: Shard) -> int:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise DataError(f"shard {path} cannot be read: {error.strerror}") from error
        try:
            with explained("read", str(path)):
                self._verify(descriptor, dataset, shard)
        except EnvironmentFailure:
            os.close(descriptor)
            raise
        return descriptor

    def _present(self, path: Path, dataset: Directory, shard: Shard) -> int | None:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        with suppress(DataError):
            self._verify(descriptor, dataset, shard)
            if os.fstat(descriptor).st_nlink:  # else it was evicted before it was locked
                os.utime(descriptor)  # recently used
                return descriptor
        os.close(descriptor)  # gone, or spoiled by the disk: download it again
        return None

    def _downloaded(self, path: Path, dataset: Directory, shard: Shard) -> int:
        part = path.with_suffix(".part")
        self._verified.discard((dataset.url, shard.name))  # these will be other bytes
        descriptor = self._reserved(part, shard.bytes)
        try:
            for attempt in range(TRIES):
                try:
                    if not dataset.get(shard.name, part):
                        raise Missing(f"shard {dataset.url}/{shard.name} is missing")
                    self._verify(descriptor, dataset, shard)
                    break
                except EnvironmentFailure as error:
                    if attempt == TRIES - 1 or _is_final(error):
                        raise
                # Drawn at random, lest all workers of a cluster come back at the same moment.
                time.sleep(random.uniform(0, min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt)))
            # Whoever makes room sees the file once, and never unlocked.
            with _locked(_eviction(path)):
                os.replace(part, path)
                fcntl.flock(descriptor, fcntl.LOCK_SH)
        except BaseException:
            part.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        return descriptor

    def _reserved(self, part: Path, size: int) -> int:
        """An empty file that stands for a download, locked; room for it is made."""
        with _locked(_eviction(part)):
            self._make_room(part.parent, size)
            with explained("write", str(part)):
                descriptor = os.open(part, os.O_RDWR | os.O_CREAT)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor

    def _make_room(self, directory: Path, needed: int) -> None:
        files = []
        for path in (*directory.glob("*.tar"), *directory.glob("*.part")):
            with suppress(FileNotFoundError):
                # A download counts in full from its first byte: its name tells its size.
                files.append((path.stat().st_mtime, int(path.stem.partition("-")[2]), path))
        total = sum(size for _, size, _ in files) + needed
        for _, size, path in sorted(files):
            if total <= self._limit and path.suffix != ".part":
                continue
            if _removed(path):  # a part that nobody has locked was left by a killed process
                total -= size
        if total > self._limit:
            raise CacheFull(
                f"no room for a shard of {needed:,} bytes in {directory}: all of its "
                f"{total - needed:,} bytes are in use; raise data.cache_bytes, {self._limit:,}"
            )

    def _verify(self, descriptor: int, dataset: Directory, shard: Shard) -> None:
        if (dataset.url, shard.name) in self._verified:
            return
        size, crc32 = _size_and_crc32(descriptor)
        if (size, crc32) != (shard.bytes, shard.crc32):
            raise DataError(
                f"shard {dataset.url}/{shard.name} is damaged: {size} bytes, CRC {crc32:08x}; the "
                f"manifest says {shard.bytes} bytes, CRC {shard.crc32:08x}; pack the dataset again"
            )
        self._verified.add((dataset.url, shard.name))


def _is_final(error: EnvironmentFailure) -> bool:
    """Whether another try would meet the same."""
    cause = error.__cause__
    full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return isinstance(error, Missing) or isinstance(cause, PermissionError) or full


def _eviction(path: Path) -> Path:
    return path.with_name("evict.lock")


def _removed(path: Path) -> bool:
    """Remove a file, unless it is in use."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()  # still locked, so that nobody opens what is about to go
    except BlockingIOError:
        return False
    except FileNotFoundError:  # a download that failed meanwhile
        pass
    return True
