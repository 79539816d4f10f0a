"""The codec that changes nothing: latents are pixels."""

from torch import Tensor

from ray_diffusion.models.codecs.codec import Codec, Posterior


class Identity(Codec):
    """Latents are the images themselves.

    Args:
        image_channels: Channels of an image.
    """

    factor = 1
    stochastic = False

    def __init__(self, image_channels: int) -> None:
        super().__init__()
        self.options = {"image_channels": image_channels}
        self.image_channels = self.latent_channels = image_channels

    def encode(self, x0: Tensor) -> Posterior:
        """See ``Codec``."""
        return Posterior(x0)

    def decode(self, latents: Tensor) -> Tensor:
        """See ``Codec``."""
        return latents
