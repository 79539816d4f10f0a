"""Where images come from: a location in the user's words -> a source."""

import heapq
import re
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b

from ray_diffusion.data.packing.columns import COMMON_NAMES, Columns
from ray_diffusion.data.packing.embedded import SCHEME as EMBEDDED
from ray_diffusion.data.packing.embedded import embedded
from ray_diffusion.data.packing.folders import folder
from ray_diffusion.data.packing.hub import SCHEME as HUB
from ray_diffusion.data.packing.hub import hub
from ray_diffusion.data.packing.source import Record, Source
from ray_diffusion.data.packing.tables import FORMATS, table
from ray_diffusion.data.packing.tars import shards
from ray_diffusion.errors import UsageError

__all__ = ["INPUTS", "Columns", "open_source"]

Opener = Callable[[str, Columns], Source]


def _without_columns(opened: Callable[[str], Source]) -> Opener:
    def opener(location: str, columns: Columns) -> Source:
        for role, name in columns._asdict().items():
            if name is not None:
                raise UsageError(
                    f"{role}_column: {location} has no columns; only tables "
                    f"({', '.join(FORMATS)}) and {HUB} datasets have"
                )
        return opened(location)

    return opener


# What a location looks like, and what opens it: the first that fits.
INPUTS: dict[str, Opener] = {
    HUB: hub,
    rf"(?i).*\.({'|'.join(FORMATS)})$": table,
    r"(?i).*\.(tar|tar\.gz|tgz)$": _without_columns(shards),
    "": _without_columns(folder),
}


def open_source(
    location: str, columns: Columns = COMMON_NAMES, num_examples: int | None = None
) -> Source:
    """The images of a location: built-in, a folder, a table, tar shards or a Hugging Face dataset.

    Args:
        location: ``builtin:NAME``, ``hf:NAME``, or a path or URL.
        columns: Names of a table's columns.
        num_examples: So many images, at least 1, chosen by a hash of their keys; None: all, or a
            built-in source's default.

    Returns:
        The source. Only what lists the images is read, but for remote tar shards.

    Raises:
        UsageError: If the location cannot be what it says, or has fewer images, or lacks a column.
        DataError: If there are no images, or what lists them is damaged or contradicts itself.
        StorageError: If the storage cannot be read.
    """
    if location.startswith(EMBEDDED):
        return _without_columns(lambda name: embedded(name, num_examples))(location, columns)
    opener = next(opener for like, opener in INPUTS.items() if re.match(like, location))
    source = opener(location, columns)
    return source if num_examples is None else _some(source, num_examples)


def _some(source: Source, number: int) -> Source:
    """A part of a source: all its classes, in its order, the same part for the same keys."""
    if number > len(source.records):
        raise UsageError(
            f"num_examples: {source.name} has {len(source.records)} images, not {number}"
        )
    chosen = heapq.nsmallest(
        number, range(len(source.records)), key=lambda i: _draw(source.records[i])
    )
    return replace(source, records=[source.records[i] for i in sorted(chosen)])


def _draw(record: Record) -> bytes:
    # Its own hash: another one divides the records into splits, and both must be independent.
    return blake2b(record.key.encode(), digest_size=8, person=b"num_examples").digest()
