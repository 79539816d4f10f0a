"""An encoder that anybody can check: means of 2x2 pixels, and a variance that follows."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ray_diffusion.data.manifest import Manifest
from ray_diffusion.data.packing.encode import encode
from ray_diffusion.data.packing.output import CODEC
from ray_diffusion.storage import Directory

FACTOR = 2


@dataclass(frozen=True)
class BlockMeans:
    """Encodes images of so many channels; ``met`` sees each batch first."""

    channels: int = 1
    moments: int = 2
    fingerprint: str = "block-means-0123456789ab"
    factor: int = FACTOR
    met: Callable[[Tensor], Tensor] | None = None

    def publish(self) -> None:
        """Nothing: what it is made of is here."""

    def __call__(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        x0 = images / 127.5 - 1
        mean = torch.nn.functional.avg_pool2d(x0 if self.met is None else self.met(x0), self.factor)
        return torch.stack([mean, -2 - mean][: self.moments], 1)


def by_hand(image: NDArray[np.uint8], mirrored: bool = True, moments: int = 2) -> NDArray:
    """The latents of an image of shape ``(C, H, W)``, as ``BlockMeans`` should encode it."""
    variants = [image, image[:, :, ::-1]] if mirrored else [image]
    found = []
    for variant in variants:
        x0 = variant.astype(np.float32) / np.float32(127.5) - 1
        C, H, W = x0.shape
        mean = x0.reshape(C, H // 2, 2, W // 2, 2).mean((2, 4), dtype=np.float64)
        found.append(np.stack([mean, -2 - mean][:moments]))
    return np.stack(found)


def publish_codec(url: str, fingerprint: str, scratch: Path) -> None:
    """Put a codec where the dataset of its latents has it."""
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / CODEC).write_text(fingerprint)
    Directory(url).publish(scratch, fingerprint)


def encoded(source: str, out: str, mirrored: bool = True, **of_encoder: object) -> Manifest:
    """Encode a dataset of grey images."""
    return encode(source, BlockMeans(**of_encoder), out, mirrored)
