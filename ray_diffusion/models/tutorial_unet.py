"""The class-conditional U-Net of a widespread tutorial, block by block, on logsnr.

With a width of 64 and multiples 1, 2, 4, 4 it has the blocks of ``UNet_conditional`` in
https://github.com/tcapelle/Diffusion-Models-pytorch, with ``remove_deep_conv``. Three things are
ours: the embedding of the level, attention through one projection to queries, keys and values
instead of ``nn.MultiheadAttention``, and a class for "no class" where the tutorial leaves the label
out of the whole batch.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ray_diffusion.models.attention import attend
from ray_diffusion.models.embedding import LogsnrEmbedding

HEADS = 4


class SelfAttention(nn.Module):
    """Every pixel attends to every pixel, then a small network; both with skip connections."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.mlp = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, channels),
            nn.GELU(),
            nn.Linear(channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)  # (B, H * W, C)
        tokens = tokens + self.out(attend(self.qkv(self.norm(tokens)), HEADS))
        tokens = tokens + self.mlp(tokens)
        return tokens.transpose(1, 2).reshape(x.shape)  # type: ignore[no-any-return]


class DoubleConv(nn.Sequential):
    """Two convolutions, normalised over the whole image."""

    def __init__(self, in_channels: int, out_channels: int, middle: int | None = None) -> None:
        middle = middle or out_channels
        super().__init__(
            nn.Conv2d(in_channels, middle, 3, padding=1, bias=False),
            nn.GroupNorm(1, middle),
            nn.GELU(),
            nn.Conv2d(middle, out_channels, 3, padding=1, bias=False),
            nn.GroupNorm(1, out_channels),
        )


class ResidualDoubleConv(nn.Module):
    """The same with a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = DoubleConv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x + self.convs(x))


class Down(nn.Module):
    """Halve the side and convolve; the embedding shifts the result."""

    def __init__(self, in_channels: int, out_channels: int, embedding_width: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.MaxPool2d(2), ResidualDoubleConv(in_channels), DoubleConv(in_channels, out_channels)
        )
        self.shift = nn.Sequential(nn.SiLU(), nn.Linear(embedding_width, out_channels))
        self.attention = SelfAttention(out_channels)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.convs(x) + self.shift(embedding)[:, :, None, None]
        return self.attention(h)  # type: ignore[no-any-return]


class Up(nn.Module):
    """Double the side, join what came down at it and convolve; the embedding shifts the result."""

    def __init__(self, in_channels: int, out_channels: int, embedding_width: int) -> None:
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.convs = nn.Sequential(
            ResidualDoubleConv(in_channels), DoubleConv(in_channels, out_channels, in_channels // 2)
        )
        self.shift = nn.Sequential(nn.SiLU(), nn.Linear(embedding_width, out_channels))
        self.attention = SelfAttention(out_channels)

    def forward(self, x: Tensor, skip: Tensor, embedding: Tensor) -> Tensor:
        h = self.convs(torch.cat([skip, self.upsample(x)], dim=1))
        return self.attention(h + self.shift(embedding)[:, :, None, None])  # type: ignore[no-any-return]


class TutorialUNet(nn.Module):
    """Predicts from a noisy image, its noise level and its class.

    Args:
        image_channels: Channels of the image.
        out_channels: Channels of the prediction.
        num_classes: Classes; one more, ``num_classes`` itself, means "no class".
        channels: Width at full resolution, a multiple of 8.
        channel_mults: Width of each level as a multiple of ``channels``; a level halves the side.
    """

    def __init__(
        self,
        image_channels: int,
        out_channels: int,
        num_classes: int,
        channels: int,
        channel_mults: tuple[int, ...],
    ) -> None:
        super().__init__()
        embedding_width = 4 * channels
        self.logsnr_embedding = LogsnrEmbedding(channels, embedding_width)
        self.class_embedding = nn.Embedding(num_classes + 1, embedding_width)

        widths = [channels * mult for mult in channel_mults]
        self.conv_in = DoubleConv(image_channels, widths[0])
        self.down = nn.ModuleList(Down(*pair, embedding_width) for pair in pairwise(widths))
        width = widths[-1]
        self.middle = nn.Sequential(DoubleConv(width, width), DoubleConv(width, width))
        self.up = nn.ModuleList()
        for level in reversed(range(len(widths) - 1)):
            out = widths[max(level - 1, 0)]  # as wide as what it will be joined with
            self.up.append(Up(width + widths[level], out, embedding_width))
            width = out
        self.conv_out = nn.Conv2d(width, out_channels, 1)

    def forward(self, x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Tensor:
        """Predict; see ``unet.UNet.forward``."""
        embedding = self.logsnr_embedding(logsnr) + self.class_embedding(condition)
        h = self.conv_in(x_t.contiguous(memory_format=torch.channels_last))
        skips = []
        for down in self.down:
            skips.append(h)
            h = down(h, embedding)
        h = self.middle(h)
        for up in self.up:
            h = up(h, skips.pop(), embedding)
        return self.conv_out(h)  # type: ignore[no-any-return]
