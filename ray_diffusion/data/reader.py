"""A dataset's split as images and labels: by number, or as a stream of batches (``stream.py``).

A dataset of latents is read in the same way, its latents in the place of images.
"""

from collections.abc import Sequence
from functools import cache, cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ray_diffusion.data.builtin import resolve
from ray_diffusion.data.cache import ShardCache
from ray_diffusion.data.corruption import Corruption, CorruptPolicy
from ray_diffusion.data.decode import BadExample, Stored, blank, decode
from ray_diffusion.data.manifest import Manifest, read_manifest
from ray_diffusion.data.mixture import Located
from ray_diffusion.data.order import Int
from ray_diffusion.data.shards import Place, Shards
from ray_diffusion.errors import DataError
from ray_diffusion.storage import Directory, is_local

DECODED_BYTES = 64 * 2**20  # of decoded images; a larger set is decoded anew each epoch
FAIL = CorruptPolicy()
LEAST_CACHED = 4  # shards that a cache must be able to hold
READ_OPEN = 16  # shards that reading by number keeps open


class Batch(NamedTuple):
    """Some examples of one split.

    Attributes:
        images: uint8, shape ``(B, C, H, W)``, in torch's ``channels_last`` memory format; of a
            dataset of latents float16, shape ``(B, moments * channels, size, size)``, the means
            before the log-variances.
        labels: int64, shape ``(B,)``.
        weights: 1, or 0 for an example that could not be used; float32, shape ``(B,)``.
        positions: Where each stands in the stream (or in the split), int64, shape ``(B,)``.
        bad: How many examples could not be used, whether they have a substitute or weight 0.
    """

    images: Tensor
    labels: Tensor
    weights: Tensor
    positions: Int
    bad: int

    def at(self, rows: slice) -> "Batch":
        """Some of the examples; ``bad`` still counts all of them."""
        images, labels, weights, positions, bad = self
        return Batch(images[rows], labels[rows], weights[rows], positions[rows], bad)


class Decoded(NamedTuple):
    """One example; see ``Batch``. A substitute has weight 1 and is bad all the same."""

    image: Stored
    label: int
    weight: float = 1.0
    bad: bool = False


class Reader:
    """Decoded examples of numbered shards; small sets are decoded once, not once an epoch.

    Args:
        shards: Gives the files of examples.
        manifest: What all examples keep to.
        policy: What becomes of those that do not.
    """

    def __init__(self, shards: Shards, manifest: Manifest, policy: CorruptPolicy) -> None:
        self._shards, self._manifest = shards, manifest
        self._corruption = Corruption(policy)
        examples = sum(place.shard.examples for place in shards.places)
        small = examples * manifest.example_bytes <= DECODED_BYTES
        self._decoded = cache(self._decode) if small else self._decode

    def batch(self, at: Located, mirrored: NDArray[np.bool_] | None = None) -> Batch:
        """Read examples.

        Args:
            at: Which, by shard and index.
            mirrored: Which of them to mirror; None mirrors none. Latents are never turned: those
                of the mirror image are taken, which must be there.

        Returns:
            The examples in the order asked for.

        Raises:
            DataError: If a shard cannot be read, or an example neither used nor replaced.
            StorageError: If the storage cannot be read.
        """
        found = [
            self._example(shard, index)
            for shard, index in zip(at.shards.tolist(), at.indices.tolist(), strict=True)
        ]
        contents = [example.image for example in found]
        if self._manifest.latents is None:
            images = _channels_last(contents)
            if mirrored is not None:
                images[mirrored] = images[mirrored, :, ::-1]
        else:
            images = _channels_last(_variants(contents, mirrored))
        return Batch(
            torch.from_numpy(images).permute(0, 3, 1, 2),
            torch.tensor([example.label for example in found]),
            torch.tensor([example.weight for example in found]),
            at.positions,
            sum(example.bad for example in found),
        )

    def _decode(self, shard: int, index: int) -> Decoded:
        key, files = self._shards.read(shard, index)
        try:
            return Decoded(*decode(files, self._manifest))
        except BadExample as error:
            error.add_note(key)
            raise

    def _example(self, shard: int, index: int) -> Decoded:
        self._corruption.read += 1
        try:
            return self._decoded(shard, index)
        except BadExample as error:
            self._corruption.meet(self._shards.places[shard], index, error.__notes__[0], str(error))
        if self._corruption.policy.action == "mask":
            return Decoded(blank(self._manifest), 0, weight=0.0, bad=True)
        return self._substitute(shard, index)._replace(bad=True)

    def _substitute(self, shard: int, index: int) -> Decoded:
        """The next good example: of the shard's content alone, so every worker finds the same."""
        count = self._shards.places[shard].shard.examples
        for step in range(1, count):
            try:
                return self._decoded(shard, (index + step) % count)
            except BadExample:
                continue
        raise DataError(f"{self._shards.places[shard]} holds no example that can be used")


def _channels_last(images: Sequence[Stored]) -> NDArray[Any]:
    # As decoders lay them out, whatever the examples; a network's sums depend on the layout.
    return np.ascontiguousarray(np.stack([image.transpose(1, 2, 0) for image in images]))


def _variants(latents: Sequence[Stored], mirrored: NDArray[np.bool_] | None) -> list[Stored]:
    """Of each example the latents of its image or of its mirror image, the moments in a row."""
    which = np.zeros(len(latents), np.bool_) if mirrored is None else mirrored
    return [
        variants[int(second)].reshape(-1, *variants.shape[-2:])
        for variants, second in zip(latents, which, strict=True)
    ]


class Dataset:
    """One split of a dataset.

    Args:
        url: A path, a URL, or ``builtin:NAME``.
        split: ``"train"``, ``"val"`` or ``"test"``.
        image_size: Side of the images, pixels, also where the dataset holds their latents; a
            built-in dataset is packed at this size.
        cache_bytes: Disk that downloaded shards may take.
        policy: What becomes of examples that cannot be used.

    Raises:
        DataError: If there is no such dataset, its images have another size, the split is empty,
            or the cache cannot hold a few of its shards.
    """

    def __init__(
        self,
        url: str,
        split: str,
        image_size: int,
        cache_bytes: int,
        policy: CorruptPolicy = FAIL,
    ) -> None:
        self.url, self.cache_bytes, self.policy = resolve(url, image_size), cache_bytes, policy
        self.manifest: Manifest = read_manifest(self.url)
        if self.manifest.image_size != image_size:
            raise DataError(
                f"{self.url} holds images of {self.manifest.image_size} pixels, "
                f"data.image_size asks for {image_size}"
            )
        if not self.manifest.examples(split):
            raise DataError(f"{self.url} has no examples in its '{split}' split")
        self.shards = self.manifest.splits[split]
        needed = LEAST_CACHED * max(shard.bytes for shard in self.shards)
        if cache_bytes < needed and not is_local(self.url):
            raise DataError(
                f"data.cache_bytes={cache_bytes} is too small for {self.url}: {LEAST_CACHED} of "
                f"its shards take {needed:,} bytes"
            )
        self._ends = np.cumsum([shard.examples for shard in self.shards])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getstate__(self) -> dict[str, Any]:
        # Open files and threads stay where they are; another process opens its own.
        return {name: value for name, value in vars(self).items() if name not in ("_reader", "_io")}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    @property
    def places(self) -> list[Place]:
        """The split's shards and where they are."""
        directory = Directory(self.url)
        return [Place(directory, shard) for shard in self.shards]

    def read(self, start: int, stop: int) -> Batch:
        """The examples ``[start, stop)`` of the split in the order of its shards."""
        return self.at(range(start, min(stop, len(self))))

    def spread(self, count: int) -> list[int]:
        """So many positions evenly spread over the split; all of them where it has less."""
        count = min(count, len(self))
        return [i * len(self) // count for i in range(count)]

    def at(self, positions: Sequence[int]) -> Batch:
        """The examples at some positions of the split, in the order of its shards."""
        at = np.asarray(positions, dtype=np.int64)
        shards = np.searchsorted(self._ends, at, side="right")
        indices = at - np.where(shards > 0, self._ends[shards - 1], 0)
        self._io.ask(dict.fromkeys(shards.tolist()))
        return self._reader.batch(Located(at, np.zeros_like(at), shards, indices))

    def close(self) -> None:
        """Close all files; reading opens them again."""
        if "_io" in vars(self):
            self._io.close()
            del self._io, self._reader

    @cached_property
    def _io(self) -> Shards:
        return Shards(self.places, ShardCache(self.cache_bytes), READ_OPEN)

    @cached_property
    def _reader(self) -> Reader:
        return Reader(self._io, self.manifest, self.policy)
