"""Random access to the examples of webdataset tar shards."""

import io
import os
import tarfile
import threading
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ray_diffusion.data.cache import ShardCache
from ray_diffusion.data.manifest import Manifest
from ray_diffusion.data.tar import Member, index
from ray_diffusion.errors import DataError

IMAGE_EXTENSIONS = ("png", "jpg", "jpeg", "webp")
LABEL = "cls"
MOST_OPEN = 256  # shards; an evicted one keeps its disk space for as long as it is open


class Shards:
    """The decoded examples of one split.

    Args:
        cache: Opens the shards.
        manifest: Describes the dataset.
        split: Which split.
    """

    def __init__(self, cache: ShardCache, manifest: Manifest, split: str) -> None:
        self._cache, self._manifest = cache, manifest
        self._shards = manifest.splits[split]
        self._open: OrderedDict[int, tuple[int, list[Member]]] = OrderedDict()
        self._lock = threading.Lock()

    def example(self, shard: int, position: int) -> tuple[NDArray[np.uint8], int]:
        """Read and decode one example.

        Args:
            shard: Index of its shard.
            position: Its index within the shard.

        Returns:
            The image, uint8, shape ``(C, H, W)``, and its label (0 in a dataset without labels).

        Raises:
            DataError: If the shard or the example cannot be read.
            StorageError: If the storage cannot be read.
        """
        key, image, label = self._read(shard, position)
        where = f"{self._shards[shard].name}: example '{key}'"
        return self._decoded(image, where), self._checked(label, where)

    def close(self) -> None:
        """Close all shards."""
        with self._lock:
            while self._open:
                os.close(self._open.popitem()[1][0])

    def _read(self, shard: int, position: int) -> tuple[str, bytes | None, bytes | None]:
        """Key, image file and label file of an example; None for what it lacks."""
        with self._lock:  # no shard is closed while it is read
            descriptor, members = self._opened(shard)
            key, fields = members[position]
            extension = next((e for e in IMAGE_EXTENSIONS if e in fields), None)
            image, label = (
                os.pread(descriptor, fields[e][1], fields[e][0]) if e in fields else None
                for e in (extension or "", LABEL)
            )
        return key, image, label

    def _decoded(self, content: bytes | None, where: str) -> NDArray[np.uint8]:
        if content is None:
            raise DataError(f"{where} has no image ({', '.join(IMAGE_EXTENSIONS)})")
        try:
            image = np.asarray(Image.open(io.BytesIO(content)))
        except Exception as error:  # decoders raise errors of any class
            reason = "not an image" if isinstance(error, UnidentifiedImageError) else error
            raise DataError(f"{where} cannot be decoded: {reason}") from error
        image = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
        expected = (self._manifest.channels, *[self._manifest.image_size] * 2)
        if image.shape != expected:
            raise DataError(f"{where} has shape {image.shape}, the manifest says {expected}")
        return image

    def _checked(self, label: bytes | None, where: str) -> int:
        classes = len(self._manifest.classes)
        if not classes:
            return 0
        if label is None:
            raise DataError(f"{where} has no label ({LABEL})")
        if not label.isdigit() or int(label) >= classes:
            raise DataError(f"{where} has label {label!r}, the manifest says 0 to {classes - 1}")
        return int(label)

    def _opened(self, shard: int) -> tuple[int, list[Member]]:
        if shard not in self._open:
            if len(self._open) >= MOST_OPEN:
                os.close(self._open.popitem(last=False)[1][0])
            self._open[shard] = self._indexed(shard)
        self._open.move_to_end(shard)
        return self._open[shard]

    def _indexed(self, shard: int) -> tuple[int, list[Member]]:
        name, examples = self._shards[shard].name, self._shards[shard].examples
        descriptor = self._cache.open(self._shards[shard])
        try:
            members = index(descriptor)
            if len(members) != examples:
                raise DataError(
                    f"{name} holds {len(members)} examples, the manifest says {examples}"
                )
        except (tarfile.TarError, OSError) as error:
            os.close(descriptor)
            raise DataError(f"{name} is not a tar file: {error}") from error
        except DataError:
            os.close(descriptor)
            raise
        return descriptor, members
