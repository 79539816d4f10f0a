"""Where the examples of a webdataset shard lie: a tar file read by its headers alone."""

import os
import tarfile
from typing import NamedTuple


class Member(NamedTuple):
    """Where one example lies in its shard.

    Attributes:
        key: The example's key.
        fields: Offset and bytes of each of its files, by extension.
    """

    key: str
    fields: dict[str, tuple[int, int]]


def index(descriptor: int) -> list[Member]:
    """Find the examples of a tar shard from its headers alone.

    Args:
        descriptor: The open shard; its file offset is moved.

    Returns:
        The examples in the order of the shard. Files that share a name up to the first dot of
        the base name, and stand together, are one example (webdataset's rule).
    """
    members: list[Member] = []
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for entry in tar:
                if not entry.isreg():
                    continue
                folder, base = os.path.split(entry.name)
                stem, _, extension = base.partition(".")
                key = os.path.join(folder, stem)
                if not members or members[-1].key != key:
                    members.append(Member(key, {}))
                members[-1].fields[extension.lower()] = (entry.offset_data, entry.size)
    return members
