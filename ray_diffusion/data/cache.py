"""Shards on this machine's disk: downloaded once per node, verified, bounded in size."""

import fcntl
import os
import threading
import zlib
from pathlib import Path

from ray_diffusion.data.manifest import Shard
from ray_diffusion.errors import DataError
from ray_diffusion.storage import Directory, cache_dir

CHUNK = 1 << 20  # bytes


def crc32_of(path: Path) -> int:
    """CRC-32 of a file."""
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc


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
            StorageError: If the storage cannot be read.
        """
        local = self._dataset.local_path()
        with self._lock:
            path = self._download(shard) if local is None else local / shard.name
            if shard.name not in self._verified:
                self._verify(path, shard)
                self._verified.add(shard.name)
        return os.open(path, os.O_RDONLY)

    def _verify(self, path: Path, shard: Shard) -> None:
        where = f"shard {self._dataset.url}/{shard.name}"
        try:
            size, crc32 = path.stat().st_size, crc32_of(path)
        except OSError as error:
            raise DataError(f"{where} cannot be read: {error.strerror}") from error
        if (size, crc32) != (shard.bytes, shard.crc32):
            raise DataError(
                f"{where} is damaged: {size} bytes, CRC {crc32:08x}; the manifest says "
                f"{shard.bytes} bytes, CRC {shard.crc32:08x}; pack the dataset again"
            )

    def _download(self, shard: Shard) -> Path:
        directory = cache_dir() / "shards"
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{shard.crc32:08x}-{shard.bytes}.tar"
        with (directory / f"{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one download per node
            if path.exists():
                os.utime(path)  # recently used
                return path
            self._evict(directory, shard.bytes)
            content = self._dataset.read(shard.name)
            if content is None:
                raise DataError(f"shard {self._dataset.url}/{shard.name} is missing")
            temporary = path.with_suffix(".tmp")
            temporary.write_bytes(content)
            self._verify(temporary, shard)
            os.replace(temporary, path)
        return path

    def _evict(self, directory: Path, needed: int) -> None:
        files = sorted((p.stat().st_mtime, p.stat().st_size, p) for p in directory.glob("*.tar"))
        total = sum(size for _, size, _ in files)
        for _, size, path in files:
            if total + needed <= self._limit:
                return
            path.unlink(missing_ok=True)
            total -= size
