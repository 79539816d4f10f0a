"""What a diffusion model works on: pixels, or latents of about unit variance."""

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ray_diffusion.models import pixels
from ray_diffusion.models.codecs import stored
from ray_diffusion.models.codecs.codec import Codec, Posterior

SCALE = "latents.json"
DECODED_AT_ONCE = 16  # images; a decoder at full resolution takes far more memory than a sampler


class Space(Protocol):
    """Between what a dataset holds, what a diffusion model works on, and what people see."""

    def x0(self, read: Tensor, noise: Callable[..., Tensor]) -> Tensor:
        """What a model is trained on.

        Args:
            read: A batch as the dataset gives it, on any device.
            noise: Gives standard normal noise, shape ``(B, *shape)``, where the data is a
                distribution of which one draw is taken.

        Returns:
            Clean data, float32, shape ``(B, C, H, W)``.
        """
        ...

    def encode(self, images: Tensor) -> Tensor:
        """What a model would make of images, without noise.

        Args:
            images: uint8, shape ``(B, C, H, W)``.

        Returns:
            Clean data, float32.
        """
        ...

    def images(self, x0: Tensor) -> Tensor:
        """The images that clean data stands for, uint8, on the device of the data."""
        ...

    def image_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """The shape of an image whose clean data has a shape ``(C, H, W)``."""
        ...

    def keep(self, mask: Tensor) -> Tensor:
        """Which of the data depends on pixels alone that are kept.

        Args:
            mask: Which pixels are kept, bool, shape ``(B, 1, H, W)``.
        """
        ...


class Pixels:
    """Pixels in [-1, 1]; see ``Space``."""

    def x0(self, read: Tensor, noise: Callable[..., Tensor]) -> Tensor:
        """See ``Space``."""
        return pixels.encode(read)

    def encode(self, images: Tensor) -> Tensor:
        """See ``Space``."""
        return pixels.encode(images)

    def images(self, x0: Tensor) -> Tensor:
        """See ``Space``."""
        return pixels.decode(x0)

    def image_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """See ``Space``."""
        return shape

    def keep(self, mask: Tensor) -> Tensor:
        """See ``Space``."""
        return mask


class LatentSpace:
    """A codec's latents, each channel with mean 0 and deviation 1 over the training images.

    One scale for all channels would leave them at different noise levels: those of a codec may
    differ tenfold in deviation. See ``Space``.

    Args:
        mean: Of each channel of the codec's latents.
        std: Standard deviation, likewise.
        codec: Gives the codec, once it is needed: training alone does without.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], codec: Callable[[], Codec]
    ) -> None:
        self._mean, self._std, self._make = list(mean), list(std), codec

    @cached_property
    def codec(self) -> Codec:
        """The codec, on the device where it was last used."""
        return self._make()

    def x0(self, read: Tensor, noise: Callable[..., Tensor]) -> Tensor:
        """See ``Space``; what was read are means, and behind them log-variances if there are."""
        C = len(self._mean)
        mean, logvar = read[:, :C].float(), read[:, C:].float()
        if not logvar.shape[1]:
            return self._standardised(mean)
        return self._standardised(Posterior(mean, logvar).sample(noise(*mean.shape[1:])))

    def encode(self, images: Tensor) -> Tensor:
        """See ``Space``."""
        codec = self.codec.to(images.device)
        return self._standardised(codec.encode(pixels.encode(images)).mean)

    @torch.no_grad()
    def images(self, x0: Tensor) -> Tensor:
        """See ``Space``."""
        codec, (mean, std) = self.codec.to(x0.device), self._scale(x0)
        parts = torch.split((x0 * std + mean).float(), DECODED_AT_ONCE)
        return torch.cat([pixels.decode(codec.decode(part)) for part in parts])

    def image_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """See ``Space``."""
        _, height, width = shape
        factor = self.codec.factor
        return self.codec.image_channels, height * factor, width * factor

    def keep(self, mask: Tensor) -> Tensor:
        """See ``Space``; a latent stays where all pixels of its square do."""
        lost = torch.nn.functional.max_pool2d((~mask).float(), self.codec.factor)
        return lost == 0

    @property
    def scale(self) -> str:
        """Means and deviations, as ``save`` writes them."""
        return json.dumps({"mean": self._mean, "std": self._std})

    def save(self, directory: Path) -> None:
        """Write codec and scale.

        Args:
            directory: Where to; exists.
        """
        stored.save(self.codec, directory)
        (directory / SCALE).write_text(self.scale)

    def _standardised(self, latents: Tensor) -> Tensor:
        mean, std = self._scale(latents)
        return (latents - mean) / std

    def _scale(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (
            torch.tensor(values, device=like.device).view(-1, 1, 1)
            for values in (self._mean, self._std)
        )
        return mean, std


def load(directory: Path, name: str | None = None) -> Pixels | LatentSpace:
    """The space of a model.

    Args:
        directory: Where ``LatentSpace.save`` has written; or one without a codec.
        name: Where it is from, for messages; None: the directory.

    Returns:
        The latents, or pixels if there is no codec.

    Raises:
        DataError: If the codec is damaged.
    """
    if not (directory / SCALE).exists():
        return Pixels()
    scale = json.loads((directory / SCALE).read_text())
    codec = stored.load(directory, name)
    return LatentSpace(scale["mean"], scale["std"], lambda: codec)
