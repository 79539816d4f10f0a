"""Where the examples of a webdataset shard lie: a tar file read by its headers alone."""

import mmap
import os
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

BLOCK = tarfile.BLOCKSIZE
FILE, FOLDER = (tarfile.REGTYPE, tarfile.AREGTYPE), tarfile.DIRTYPE


class Member(NamedTuple):
    """Where one example lies in its shard.

    Attributes:
        key: The example's key.
        fields: Offset and bytes of each of its files, by extension.
    """

    key: str
    fields: dict[str, tuple[int, int]]


def index(descriptor: int, verified: bool = False) -> list[Member]:
    """Find the examples of a tar shard from its headers alone.

    Args:
        descriptor: The open shard; its file offset may be moved.
        verified: Whether its bytes are known to be right; headers are then read ten times as fast,
            without a look at their own checksums.

    Returns:
        The examples in the order of the shard. Files that share a name up to the first dot of
        the base name, and stand together, are one example (webdataset's rule).

    Raises:
        tarfile.TarError: If it is no tar file, damaged, or ends before its end-of-archive mark.
    """
    members: list[Member] = []
    try:
        files = list((_plain_files if verified else _files)(descriptor))
    except ValueError:  # an extension of the format: long names, links, huge files
        files = list(_files(descriptor))
    for name, offset, size in files:
        folder, base = os.path.split(name)
        stem, _, extension = base.partition(".")
        key = f"{folder}/{stem}" if folder else stem
        if not members or members[-1].key != key:
            members.append(Member(key, {}))
        members[-1].fields[extension.lower()] = (offset, size)
    return members


def _plain_files(descriptor: int) -> Iterator[tuple[str, int, int]]:
    """Name, offset and bytes of each file of a tar of plain files.

    Raises:
        ValueError: If there is anything but plain files in it.
        tarfile.ReadError: If it ends too soon.
    """
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as tar:
        at, end = 0, len(tar)
        while (header := tar[at : at + BLOCK]).strip(b"\0"):
            kind = header[156:157]
            if header[257:262] != b"ustar" or kind not in (*FILE, FOLDER):
                raise ValueError("not a plain file")
            size, at = int(header[124:136].strip(b"\0 "), 8), at + BLOCK
            if kind != FOLDER:
                prefix = header[345:500].partition(b"\0")[0] if header[262] == 0 else b""
                name = (prefix and prefix + b"/") + header[:100].partition(b"\0")[0]
                yield name.decode(), at, size
            at += -(-size // BLOCK) * BLOCK
        if at >= end:
            raise tarfile.ReadError("it is cut short")


def _files(descriptor: int) -> Iterator[tuple[str, int, int]]:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for entry in tar:
                if entry.isreg():
                    yield entry.name, entry.offset_data, entry.size
        # tarfile takes whatever it does not understand for the end, and a cut file for a whole.
        if os.pread(descriptor, BLOCK, tar.offset) != bytes(BLOCK):
            raise tarfile.ReadError("it is cut short or damaged")
