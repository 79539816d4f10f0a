"""One shard of latents: read a shard of images, encode it, publish what comes of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ray_diffusion.data.builtin import resolve
from ray_diffusion.data.cache import ShardCache
from ray_diffusion.data.decode import CAPTION, LABEL, BadExample, decode
from ray_diffusion.data.latents import EXTENSION, to_npy
from ray_diffusion.data.manifest import Manifest, Shard
from ray_diffusion.data.packing.latent_sums import Sums
from ray_diffusion.data.packing.output import Files, publish_shard
from ray_diffusion.data.shards import Place, Shards
from ray_diffusion.errors import DataError
from ray_diffusion.storage import Directory

BATCH = 32  # images encoded at a time; never another number, on which sums of networks depend


class Encoder(Protocol):
    """From images to latents. Picklable; loads its codec where it runs."""

    @property
    def fingerprint(self) -> str:
        """The codec's, ``KIND-DIGEST`` with twelve hexadecimal digits."""
        ...

    @property
    def channels(self) -> int:
        """Of a latent."""
        ...

    @property
    def factor(self) -> int:
        """How many times shorter a side of a latent is than that of its image."""
        ...

    @property
    def moments(self) -> int:
        """1: means alone; 2: means and log-variances."""
        ...

    def publish(self) -> None:
        """Put the codec where its latents will be, before any of them are made."""
        ...

    def __call__(self, images: Tensor) -> Tensor:
        """Encode images.

        Args:
            images: uint8, shape ``(B, C, H, W)``, on the CPU.

        Returns:
            float32, shape ``(B, moments, channels, H / factor, W / factor)``, on the CPU.

        Raises:
            UsageError: If the codec is for images of other channels.
        """
        ...


class EncodeTask(NamedTuple):
    """One shard to encode.

    Attributes:
        split: Which it belongs to.
        number: Its place in the split.
        shard: The shard of images.
        source_url: The dataset of images: a path, a URL, or ``builtin:NAME``.
        images: Its manifest, without the list of shards.
        encoder: What encodes.
        mirrored: Whether to encode each image's mirror image as well.
        cache_bytes: Disk that downloaded shards may take.
        out: The URL of the dataset of latents.
    """

    split: str
    number: int
    shard: Shard
    source_url: str
    images: Manifest
    encoder: Encoder
    mirrored: bool
    cache_bytes: int
    out: str

    @property
    def name(self) -> str:
        """Unique within the dataset."""
        return f"{self.split}-{self.number:06d}"

    @property
    def records(self) -> range:
        """Its examples, by their index within the shard."""
        return range(self.shard.examples)


@dataclass(frozen=True)
class Encoded:
    """A shard of latents that is in place.

    Attributes:
        shard: What the manifest says of it.
        sums: Of its latents.
    """

    shard: Shard
    sums: Sums


def encode_shard(task: EncodeTask) -> Encoded:
    """Encode one shard; equal tasks write equal bytes under equal names.

    Raises:
        DataError: If the shard or an example of it cannot be used, or float16 has no room for
            its latents.
        StorageError: If the shard cannot be read, or that of latents not be written.
    """
    found: list[Sums] = []

    def examples() -> Iterator[Files]:
        for batch in _batches(task):
            latents = _latents(batch, task)
            found.append(Sums.of(latents))
            for one, of in zip(batch, latents, strict=True):
                yield one.files | {EXTENSION: to_npy(of)}

    shard = publish_shard(examples(), task.name, Directory(task.out))
    return Encoded(shard, sum(found, Sums.none(task.encoder.channels)))


def restored(note: Any, sizes: Mapping[str, int]) -> Encoded | None:
    """The shard that a note stands for, if it is still in place.

    Args:
        note: An ``Encoded`` as JSON has it.
        sizes: Bytes of each file that the dataset's directory holds.
    """
    shard = Shard(**note["shard"])
    return Encoded(shard, Sums(**note["sums"])) if sizes.get(shard.name) == shard.bytes else None


class _Example(NamedTuple):
    """An image on its way, and the files that stay as they are."""

    name: str  # in messages
    files: Files
    image: NDArray[Any]


def _batches(task: EncodeTask) -> Iterator[list[_Example]]:
    place = Place(Directory(resolve(task.source_url, task.images.image_size)), task.shard)
    with Shards([place], ShardCache(task.cache_bytes), 1) as shards:
        for start in range(0, len(task.records), BATCH):
            batch = []
            for index in task.records[start : start + BATCH]:
                key, files = shards.read(0, index)
                name = f"{place}: example '{key}'"
                try:
                    image, _ = decode(files, task.images)
                except BadExample as error:
                    raise DataError(f"{name} {error}") from error
                kept: Files = {n: files[n] for n in (LABEL, CAPTION) if n in files}
                batch.append(_Example(name, kept | {"__key__": key}, image))
            yield batch


def _latents(batch: Sequence[_Example], task: EncodeTask) -> NDArray[np.float16]:
    """Latents of a batch, shape ``(B, variants, moments, channels, size, size)``."""
    images = torch.from_numpy(np.stack([one.image for one in batch]))
    variants = [images, images.flip(-1)] if task.mirrored else [images]
    exact = torch.stack([task.encoder(variant) for variant in variants], 1).numpy()
    with np.errstate(over="ignore"):
        latents = exact.astype(np.float16)
    fits = np.isfinite(latents).reshape(len(batch), -1).all(1)
    if not fits.all():
        worst = int(fits.argmin())
        raise DataError(
            f"{batch[worst].name} has latents up to {np.abs(exact[worst]).max():g}, for which "
            f"float16 has no room; {task.encoder.fingerprint} is no codec for these images, or "
            "diverged: choose another"
        )
    return latents
