"""The directory that a dataset is written into: shards, notes of what is done, leftovers."""

import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray_diffusion.data.manifest import Manifest, Shard
from ray_diffusion.data.packing.files import described
from ray_diffusion.errors import StorageError
from ray_diffusion.storage import MANIFEST, Directory, explained

NOTES = ".packing"  # of finished tasks; gone when the dataset is whole
REPORT = "report.html"
CODEC = "codec.json"  # in a folder that a codec is published in
OURS = re.compile(
    r"(train|val|test)-\d{6,}-[0-9a-f]{8}\.tar|shards-[0-9a-f]{16}\.parquet|report\.html"
)
CODECS = re.compile(r"[a-z-]+-[0-9a-f]{12}")  # fingerprints

Files = dict[str, str | bytes]  # of one example, by extension; and its key, as ``__key__``


def notes_of(*tasks_follow_from: Any) -> str:
    """Where the tasks of one request leave their notes.

    Args:
        tasks_follow_from: Plain values; others have other notes.

    Returns:
        A name within the dataset's directory.
    """
    digest = hashlib.sha256(json.dumps(tasks_follow_from).encode()).hexdigest()
    return f"{NOTES}/{digest[:16]}"


def publish_shard(examples: Iterable[Files], name: str, directory: Directory) -> Shard:
    """Write one shard; equal examples make equal bytes under equal names.

    Args:
        examples: What it holds.
        name: Unique within the dataset; the shard's own says its content as well.
        directory: The dataset's.

    Returns:
        What the manifest says of the shard, which is in place.

    Raises:
        StorageError: If it cannot be written.
    """
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "shard.tar")
        shard = described(path, "", _write_tar(path, examples))
        shard = replace(shard, name=f"{name}-{shard.sha256[:8]}.tar")
        directory.put(path, shard.name)
    return shard


def _write_tar(path: Path, examples: Iterable[Files]) -> int:
    """Write a tar file; returns how many examples there were."""
    from webdataset import TarWriter  # slow, and needed by packing alone

    count = 0
    with explained("write", str(path)), path.open("wb") as file, TarWriter(file, mtime=0) as tar:
        for files in examples:
            tar.write(files)
            count += 1
    return count


def sizes(directory: Directory) -> dict[str, int]:
    """Bytes of each file in a directory, by name."""
    return {file.name: file.bytes for file in directory.walk()}


def refuse_lost(directory: Directory, shards: Sequence[Shard]) -> None:
    """Make sure that shards are where they were written to.

    A worker elsewhere may have a disk of its own, and another packer may clear ours away.

    Args:
        directory: The dataset's.
        shards: All that were written.

    Raises:
        StorageError: If one is not there, or cannot be looked for.
    """
    there = sizes(directory)
    lost = [shard.name for shard in shards if there.get(shard.name) != shard.bytes]
    if lost:
        raise StorageError(
            f"{len(lost)} of {len(shards)} shards were written and are not in {directory.url}, the "
            f"first is {lost[0]}: all workers must reach that place, and one packer alone use it"
        )


def strangers(names: Iterable[str], manifest: Manifest) -> list[str]:
    """Those of some names in a dataset's directory that are none of the dataset's own.

    Args:
        names: Of files and folders, relative to it.
        manifest: The dataset's.
    """
    own = {shard.name for shards in manifest.splits.values() for shard in shards}
    own |= {MANIFEST, f"shards-{manifest.fingerprint}.parquet"}
    if manifest.latents is None:
        return [name for name in names if name not in own | {REPORT}]
    codec = manifest.latents.codec
    return [name for name in names if name not in own and name.partition("/")[0] != codec]


def tidy(directory: Directory, manifest: Manifest) -> None:
    """Remove notes, and what an earlier packer or encoder wrote here or meant to.

    Args:
        directory: The dataset's, which is whole.
        manifest: The dataset's.
    """
    directory.remove(NOTES)
    for name in strangers(directory.names(), manifest):
        if OURS.fullmatch(name) or _is_codec(directory, name):
            directory.remove(name)


def _is_codec(directory: Directory, name: str) -> bool:
    return CODECS.fullmatch(name) is not None and (directory / name).read(CODEC) is not None
