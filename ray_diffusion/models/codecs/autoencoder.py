"""A small autoencoder with a Gaussian posterior (Rombach et al. 2022, arXiv:2112.10752).

Shapes in the comments: B examples, C channels, H x W pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ray_diffusion.models.codecs.codec import Codec, Posterior
from ray_diffusion.models.norm import GroupNorm
from ray_diffusion.models.unet import NORM_GROUPS

LEAST_LOGVAR, MOST_LOGVAR = -30.0, 20.0  # the released models' clamp: no overflow of the variance

FIRST_LOGVAR = -6.0


class ResidualBlock(nn.Module):
    """Two convolutions with a skip connection, as which it starts."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm_in = GroupNorm(NORM_GROUPS, in_channels)
        self.conv_in = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm_out = GroupNorm(NORM_GROUPS, out_channels)
        self.conv_out = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip: nn.Module = (
            nn.Conv2d(in_channels, out_channels, 1)
            if in_channels != out_channels
            else nn.Identity()
        )
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(F.silu(self.norm_in(x)))
        return self.skip(x) + self.conv_out(F.silu(self.norm_out(h)))  # type: ignore[no-any-return]


def _blocks(width: int, out: int, number: int) -> list[nn.Module]:
    return [ResidualBlock(width if i == 0 else out, out) for i in range(number)]


def _start_almost_without_noise(moments: nn.Conv2d, latent_channels: int) -> None:
    """With unit variance, the decoder would first have to learn to see through the noise."""
    assert moments.bias is not None
    nn.init.zeros_(moments.weight[latent_channels:])
    nn.init.constant_(moments.bias[latent_channels:], FIRST_LOGVAR)


class Autoencoder(Codec):
    """Learned latents: convolutions alone, so images may have any size.

    At its full resolution it sees squares of pixels as channels: convolutions of single pixels
    would take most of the time and add little.

    Args:
        image_channels: Channels of an image.
        latent_channels: Channels of a latent.
        channels: Width of the first level, a multiple of 8.
        channel_mults: Width of each level as a multiple of ``channels``; a level halves the side.
        blocks_per_level: Residual blocks in each level, in the encoder as in the decoder.
        patch_size: Side of the squares of pixels that the first level takes for its pixels.
    """

    stochastic = True

    def __init__(
        self,
        image_channels: int,
        latent_channels: int,
        channels: int,
        channel_mults: Sequence[int],
        blocks_per_level: int,
        patch_size: int,
    ) -> None:
        super().__init__()
        self.options = {
            "image_channels": image_channels,
            "latent_channels": latent_channels,
            "channels": channels,
            "channel_mults": list(channel_mults),
            "blocks_per_level": blocks_per_level,
            "patch_size": patch_size,
        }
        self.image_channels, self.latent_channels = image_channels, latent_channels
        self.factor = patch_size * 2 ** (len(channel_mults) - 1)
        patch_channels = image_channels * patch_size**2
        widths = [channels * mult for mult in channel_mults]

        encoder: list[nn.Module] = [
            nn.PixelUnshuffle(patch_size),
            nn.Conv2d(patch_channels, widths[0], 3, padding=1),
        ]
        width = widths[0]
        for level, out in enumerate(widths):
            if level > 0:
                encoder.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
            encoder += _blocks(width, out, blocks_per_level)
            width = out
        moments = nn.Conv2d(width, 2 * latent_channels, 3, padding=1)
        _start_almost_without_noise(moments, latent_channels)
        self.encoder = nn.Sequential(*encoder, GroupNorm(NORM_GROUPS, width), nn.SiLU(), moments)

        decoder: list[nn.Module] = [nn.Conv2d(latent_channels, width, 3, padding=1)]
        for level, out in reversed(list(enumerate(widths))):
            decoder += _blocks(width, out, blocks_per_level)
            width = out
            if level > 0:
                decoder.append(nn.Upsample(scale_factor=2.0, mode="nearest"))
                decoder.append(nn.Conv2d(width, width, 3, padding=1))
        # No norm before the last convolution: it would take contrast away, which latents hold.
        decoder += [nn.Conv2d(width, patch_channels, 3, padding=1), nn.PixelShuffle(patch_size)]
        self.decoder = nn.Sequential(*decoder)

    def encode(self, x0: Tensor) -> Posterior:
        """See ``Codec``."""
        moments = self.encoder(x0.contiguous(memory_format=torch.channels_last))
        mean, logvar = moments.chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(LEAST_LOGVAR, MOST_LOGVAR))

    def decode(self, latents: Tensor) -> Tensor:
        """See ``Codec``."""
        return self.decoder(latents.contiguous(memory_format=torch.channels_last))  # type: ignore[no-any-return]
