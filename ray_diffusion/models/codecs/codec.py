"""What a codec is."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn


class Posterior(NamedTuple):
    """What a codec says of the latents of images.

    Attributes:
        mean: Shape ``(B, C, h, w)``.
        logvar: Logarithm of the variance, likewise; None of a codec that is deterministic.
    """

    mean: Tensor
    logvar: Tensor | None = None

    def sample(self, noise: Tensor) -> Tensor:
        """Latents: the mean, and as much of the noise as there is variance.

        Args:
            noise: Standard normal, shape of ``mean``; of no matter without a variance.
        """
        if self.logvar is None:
            return self.mean
        return self.mean + (self.logvar / 2).exp() * noise


class Codec(nn.Module):
    """A way from images to latents and back.

    Attributes:
        options: Keyword arguments that make the same module again, but for its weights; plain
            values that JSON can hold.
        image_channels: Channels of an image.
        latent_channels: Channels of a latent.
        factor: How many times shorter a side of a latent is than that of its image.
        stochastic: Whether there is a variance.
    """

    options: Mapping[str, Any]
    image_channels: int
    latent_channels: int
    factor: int
    stochastic: bool

    @abstractmethod
    def encode(self, x0: Tensor) -> Posterior:
        """Latents of images.

        Args:
            x0: Images in [-1, 1], shape ``(B, C, H, W)``, sides multiples of ``factor``.

        Returns:
            Latents of shape ``(B, latent_channels, H / factor, W / factor)``.
        """

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Images of latents: the inverse of ``encode``, as far as there is one.

        Args:
            latents: Shape ``(B, latent_channels, h, w)``.

        Returns:
            Images, in [-1, 1] but for the codec's errors, shape ``(B, C, factor h, factor w)``.
        """
