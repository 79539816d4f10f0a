"""The codec of the latents that a run trains on."""

import tempfile
from functools import partial
from pathlib import Path

from ray_diffusion.data.manifest import Latents
from ray_diffusion.data.reader import Dataset
from ray_diffusion.errors import DataError
from ray_diffusion.models.codecs import stored
from ray_diffusion.models.codecs.codec import Codec
from ray_diffusion.models.codecs.space import LatentSpace, Pixels, Space
from ray_diffusion.storage import MANIFEST, Directory


def space_of(dataset: Dataset) -> Space:
    """What a diffusion model that is trained on a dataset works on.

    Args:
        dataset: Any of its splits.

    Returns:
        Pixels, or the latents that the dataset holds. Their codec is fetched once it is needed,
        and may then raise as ``fetch_codec`` does.
    """
    latents = dataset.manifest.latents
    return Pixels() if latents is None else latents_of(dataset.url, latents)


def latents_of(dataset_url: str, latents: Latents) -> LatentSpace:
    """The space of a dataset of latents.

    Args:
        dataset_url: Where the dataset is.
        latents: What its manifest says of them.
    """
    fetch = partial(fetch_codec, dataset_url, latents.codec)
    return LatentSpace(latents.mean, latents.std, fetch)


def check_codec(dataset_url: str, fingerprint: str) -> None:
    """Find out, from a few bytes, whether a dataset of latents has its codec.

    Args:
        dataset_url: Where the dataset is.
        fingerprint: The codec that its manifest names.

    Raises:
        DataError: If it is not there, or another one.
        StorageError: If the storage cannot be read.
    """
    folder = Directory(dataset_url) / fingerprint
    said = folder.read(stored.FILE) if folder.read(MANIFEST) else None
    if said is None:
        raise DataError(
            f"{folder.url}, the codec of its latents, is missing; encode the dataset again"
        )
    if fingerprint.encode() not in said:
        raise DataError(f"{folder.url} holds another codec; encode the dataset again")


def fetch_codec(dataset_url: str, fingerprint: str) -> Codec:
    """Bring the codec of a dataset of latents to this machine.

    Args:
        dataset_url: Where the dataset is.
        fingerprint: The codec that its manifest names.

    Returns:
        The codec.

    Raises:
        DataError: If it is not there, damaged, or another one.
        StorageError: If the storage cannot be read.
    """
    directory = Directory(dataset_url)
    name = f"{directory.url}/{fingerprint}"
    with tempfile.TemporaryDirectory() as scratch:
        problem = directory.fetch(fingerprint, Path(scratch))
        if problem is not None:
            raise DataError(
                f"{name}, the codec of its latents, {problem}; encode the dataset again"
            )
        codec = stored.load(Path(scratch), name)
    if (found := stored.fingerprint(codec)) != fingerprint:
        raise DataError(f"{name} holds another codec, {found}; encode the dataset again")
    return codec
