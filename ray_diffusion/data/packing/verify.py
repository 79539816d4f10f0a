"""Whether a dataset is what its manifest says, to the last byte."""

import tempfile
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from ray_diffusion.data.manifest import Manifest, Shard
from ray_diffusion.data.packing.files import at_hand, described, members_of
from ray_diffusion.data.packing.output import strangers
from ray_diffusion.data.packing.stages import Progress, Runner, counted, silent
from ray_diffusion.errors import DataError
from ray_diffusion.storage import Directory


class VerifyTask(NamedTuple):
    """One shard to read again.

    Attributes:
        url: The dataset.
        shard: What its manifest says of the shard.
    """

    url: str
    shard: Shard


def verify(
    url: str, manifest: Manifest, run: Runner = map, progress: Progress = silent
) -> list[str]:
    """Read every shard again and compare it with the manifest; and the codec of latents.

    Args:
        url: Where the dataset is.
        manifest: What it should hold.
        run: Does one task for each shard.
        progress: Is told how many are done.

    Returns:
        One line for each problem; none if the dataset is whole.

    Raises:
        StorageError: If the storage cannot be read.
    """
    tasks = [VerifyTask(url, shard) for shard in chain.from_iterable(manifest.splits.values())]
    found = counted("verified", run(problems, tasks), [1] * len(tasks), progress)
    return [*chain.from_iterable(found), *_codec_problems(url, manifest)]


def _codec_problems(url: str, manifest: Manifest) -> list[str]:
    if manifest.latents is None:
        return []
    codec = manifest.latents.codec
    with tempfile.TemporaryDirectory() as scratch:
        wrong = Directory(url).fetch(codec, Path(scratch))
    return [] if wrong is None else [f"{url}/{codec}, the codec of its latents, {wrong}"]


def problems(task: VerifyTask) -> list[str]:
    """What is wrong with one shard, a line each."""
    name = task.shard.name
    try:
        with at_hand(Directory(task.url), name) as path:
            found = described(path, name, len(members_of(path, f"{task.url}/{name}")))
    except DataError as error:
        return [str(error)]
    said, are = vars(task.shard), vars(found)
    return [
        f"{task.url}/{name} has {key} {are[key]}, the manifest says {said[key]}"
        for key in said
        if are[key] != said[key]
    ]


def unlisted(url: str, manifest: Manifest) -> list[str]:
    """Names of files in a dataset's directory that are none of its own.

    Raises:
        StorageError: If the storage cannot be read.
    """
    return strangers((file.name for file in Directory(url).walk()), manifest)
