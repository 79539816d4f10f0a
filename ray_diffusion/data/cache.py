"""Shards on this machine's disk: downloaded once per node, verified, bounded in size."""

import fcntl
import os
import threading
import zlib
from contextlib import suppress
from pathlib import Path

from ray_diffusion.data.manifest import Shard
from ray_diffusion.errors import DataError, EnvironmentFailure
from ray_diffusion.storage import Directory, explained, make_cache_dir

CHUNK = 1 << 20  # bytes


def _size_and_crc32(descriptor: int) -> tuple[int, int]:
    size, crc32 = 0, 0
    while chunk := os.pread(descriptor, CHUNK, size):
        size, crc32 = size + len(chunk), zlib.crc32(chunk, crc32)
    return size, crc32


class ShardCache:
    """Opens the shards of one dataset, downloading what is not on this machine.

    A cached file is named by its content (CRC and length), so datasets cannot be mixed up and all
    processes of a node share one copy. A dataset on a local path is read in place.

    Args:
        url: Where the dataset is.
        limit: Bytes that cached shards may take; the longest unused go first. A file that is
            open stays readable after it is unlinked, so eviction never hurts a reader.
    """

    def __init__(self, url: str, limit: int) -> None:
        self._dataset, self._limit = Directory(url), limit
        self._verified: set[str] = set()
        self._lock = threading.Lock()

    def open(self, shard: Shard) -> int:
        """Open a shard for reading.

        Args:
            shard: Which.

        Returns:
            A file descriptor, the caller's to close.

        Raises:
            DataError: If the shard is missing, or not what the manifest says.
            StorageError: If the storage cannot be read, or the cache cannot be written.
        """
        local = self._dataset.local_path()
        with self._lock:
            return self._cached(shard) if local is None else self._in_place(local, shard)

    def _in_place(self, dataset: Path, shard: Shard) -> int:
        path = dataset / shard.name
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise DataError(f"{self._where(shard)} cannot be read: {error.strerror}") from error
        if shard.name not in self._verified:
            try:
                with explained("read", str(path)):
                    found = _size_and_crc32(descriptor)
                self._verify(shard, *found)
            except EnvironmentFailure:
                os.close(descriptor)
                raise
        return descriptor

    def _cached(self, shard: Shard) -> int:
        directory = make_cache_dir("shards")
        path = directory / f"{shard.crc32:08x}-{shard.bytes}.tar"
        with (directory / f"{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one download per node
            with suppress(FileNotFoundError):
                descriptor = os.open(path, os.O_RDONLY)
                known = shard.name in self._verified
                if known or _size_and_crc32(descriptor) == (shard.bytes, shard.crc32):
                    os.utime(descriptor)  # recently used
                    self._verified.add(shard.name)
                    return descriptor
                os.close(descriptor)  # the disk spoiled it: download it again
            content = self._dataset.read(shard.name)
            if content is None:
                raise DataError(f"{self._where(shard)} is missing")
            self._verify(shard, len(content), zlib.crc32(content))
            self._evict(directory, shard.bytes)
            temporary = path.with_suffix(".tmp")
            with explained("write", str(temporary)):
                temporary.write_bytes(content)
                # Opened before another process can evict it.
                descriptor = os.open(temporary, os.O_RDONLY)
                os.replace(temporary, path)
        return descriptor

    def _where(self, shard: Shard) -> str:
        return f"shard {self._dataset.url}/{shard.name}"

    def _verify(self, shard: Shard, size: int, crc32: int) -> None:
        if (size, crc32) != (shard.bytes, shard.crc32):
            raise DataError(
                f"{self._where(shard)} is damaged: {size} bytes, CRC {crc32:08x}; the manifest "
                f"says {shard.bytes} bytes, CRC {shard.crc32:08x}; pack the dataset again"
            )
        self._verified.add(shard.name)

    def _evict(self, directory: Path, needed: int) -> None:
        files = []
        for path in directory.glob("*.tar"):
            with suppress(FileNotFoundError):  # other processes evict too
                files.append((path.stat().st_mtime, path.stat().st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total + needed <= self._limit:
                return
            path.unlink(missing_ok=True)
            total -= size
