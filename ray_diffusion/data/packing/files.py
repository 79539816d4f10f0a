"""Shard files on this machine, and what a manifest says of one."""

import hashlib
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray_diffusion.data.decode import LABEL
from ray_diffusion.data.manifest import Shard
from ray_diffusion.data.tar import Member, index
from ray_diffusion.errors import DataError
from ray_diffusion.storage import Directory, explained

CHUNK = 1 << 20  # bytes
GZIP = b"\x1f\x8b"


@contextmanager
def at_hand(dataset: Directory, name: str) -> Iterator[Path]:
    """Have a file of a dataset on this machine's disk.

    Args:
        dataset: Where it belongs to.
        name: Which.

    Yields:
        Its path: its own if the dataset is on this machine, else a copy that goes again.

    Raises:
        DataError: If there is no such file.
        StorageError: If it cannot be read.
    """
    local = dataset.local_path()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "shard.tar") if local is None else local / name
        if not (path.is_file() if local else dataset.get(name, path)):
            raise DataError(f"{dataset.url}/{name} is missing")
        yield path


def members_of(path: Path, where: str) -> list[Member]:
    """The examples of a shard.

    Args:
        path: The file.
        where: What to call it.

    Raises:
        DataError: If it is no tar file, damaged or compressed.
        StorageError: If it cannot be read.
    """
    with explained("read", where), path.open("rb") as file:
        if file.read(len(GZIP)) == GZIP:
            raise DataError(
                f"{where} is compressed; shards are plain tar files: unpack it with gunzip"
            )
        try:
            return index(file.fileno())
        except tarfile.TarError as error:
            raise DataError(f"{where} is no tar file, or is damaged: {error}") from error


def class_number(content: bytes, where: str) -> int:
    """The class that a label file says.

    Args:
        content: The file.
        where: What to call its example.

    Raises:
        DataError: If it says none.
    """
    if not re.fullmatch(rb"\d{1,6}", content.strip()):  # longer ones would fill the memory
        raise DataError(f"{where} has label {content[:20]!r} ({LABEL}), which is no class number")
    return int(content)


def described(path: Path, name: str, examples: int) -> Shard:
    """What a manifest says of a shard.

    Args:
        path: The file.
        name: Its name within the dataset.
        examples: How many it holds.

    Raises:
        StorageError: If it cannot be read.
    """
    size, crc32, sha256 = 0, 0, hashlib.sha256()
    with explained("read", str(path)), path.open("rb") as file:
        while chunk := file.read(CHUNK):
            size, crc32 = size + len(chunk), zlib.crc32(chunk, crc32)
            sha256.update(chunk)
    return Shard(name, examples, size, crc32, sha256.hexdigest())
