"""A class-conditional U-Net (Ho et al. 2020, arXiv:2006.11239, appendix B) on logsnr.

Shapes in the comments: B examples, C channels, H x W pixels, E width of the embedding.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ray_diffusion.models.attention import attend, heads_of
from ray_diffusion.models.embedding import LogsnrEmbedding
from ray_diffusion.models.norm import GroupNorm

NORM_GROUPS = 8  # divides every width, as channels are a multiple of 8
HEAD_WIDTH = 32  # channels per attention head, or more


def _start_at_zero(layer: nn.Conv2d | nn.Linear) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class ResidualBlock(nn.Module):
    """Two convolutions around a shift and scale by the embedding, with a skip connection."""

    def __init__(
        self, in_channels: int, out_channels: int, embedding_width: int, dropout: float
    ) -> None:
        super().__init__()
        self.norm_in = GroupNorm(NORM_GROUPS, in_channels)
        self.conv_in = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.modulation = nn.Linear(embedding_width, 2 * out_channels)
        self.norm_out = GroupNorm(NORM_GROUPS, out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip: nn.Module = (
            nn.Conv2d(in_channels, out_channels, 1)
            if in_channels != out_channels
            else nn.Identity()
        )
        _start_at_zero(self.conv_out)  # a new block starts as its skip connection

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv_in(F.silu(self.norm_in(x)))
        scale, shift = self.modulation(F.silu(embedding))[:, :, None, None].chunk(2, dim=1)
        h = self.norm_out(h) * (1 + scale) + shift
        return self.skip(x) + self.conv_out(self.dropout(F.silu(h)))  # type: ignore[no-any-return]


class SelfAttention(nn.Module):
    """Every pixel attends to every pixel, with a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = heads_of(channels, HEAD_WIDTH)
        self.norm = GroupNorm(NORM_GROUPS, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        _start_at_zero(self.out)

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        tokens = self.norm(x).permute(0, 2, 3, 1).reshape(B, H * W, C)  # a view in channels_last
        mixed = self.out(attend(self.qkv(tokens), self.heads))
        return x + mixed.view(B, H, W, C).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


class Stage(nn.Module):
    """A residual block and, at the levels that have it, attention."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_width: int,
        dropout: float,
        attention: bool,
    ) -> None:
        super().__init__()
        self.block = ResidualBlock(in_channels, out_channels, embedding_width, dropout)
        self.attention = SelfAttention(out_channels) if attention else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.attention(self.block(x, embedding))  # type: ignore[no-any-return]


class UNet(nn.Module):
    """Predicts from a noisy image, its noise level and its class.

    Args:
        image_channels: Channels of the image.
        out_channels: Channels of the prediction.
        num_classes: Classes; one more, ``num_classes`` itself, means "no class".
        channels: Width at full resolution, a multiple of 8.
        channel_mults: Width of each level as a multiple of ``channels``; a level halves the side.
        blocks_per_level: Residual blocks on the way down; one more on the way up.
        attention_levels: Levels with self-attention, 0 is full resolution.
        dropout: Share of each block's activations that is dropped while training.
    """

    def __init__(
        self,
        image_channels: int,
        out_channels: int,
        num_classes: int,
        channels: int,
        channel_mults: tuple[int, ...],
        blocks_per_level: int,
        attention_levels: tuple[int, ...],
        dropout: float,
    ) -> None:
        super().__init__()
        embedding_width = 4 * channels

        def stage(width: int, out: int, attention: bool) -> Stage:
            return Stage(width, out, embedding_width, dropout, attention)

        self.logsnr_embedding = LogsnrEmbedding(channels, embedding_width)
        self.class_embedding = nn.Embedding(num_classes + 1, embedding_width)
        self.conv_in = nn.Conv2d(image_channels, channels, 3, padding=1)

        widths = [channels * mult for mult in channel_mults]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        width, skips = channels, [channels]
        for level, out in enumerate(widths):
            for _ in range(blocks_per_level):
                self.down.append(stage(width, out, level in attention_levels))
                skips.append(width := out)
            if level < len(widths) - 1:
                self.down.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                skips.append(width)
        self.middle = stage(width, width, attention=True)
        for level, out in reversed(list(enumerate(widths))):
            for _ in range(blocks_per_level + 1):
                self.up.append(stage(width + skips.pop(), out, level in attention_levels))
                width = out
            if level > 0:
                self.up.append(nn.Conv2d(width, width, 3, padding=1))
        self.norm_out = GroupNorm(NORM_GROUPS, width)
        self.conv_out = nn.Conv2d(width, out_channels, 3, padding=1)
        _start_at_zero(self.conv_out)

    def forward(self, x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Tensor:
        """Predict.

        Args:
            x_t: Noisy images, shape ``(B, C, H, W)``.
            logsnr: Noise levels, shape ``(B,)``.
            condition: Classes, ``num_classes`` for none, shape ``(B,)``, int64.

        Returns:
            The prediction, shape ``(B, out_channels, H, W)``.
        """
        embedding = self.logsnr_embedding(logsnr) + self.class_embedding(condition)
        h = self.conv_in(x_t.contiguous(memory_format=torch.channels_last))
        skips = [h]
        for module in self.down:
            h = module(h, embedding) if isinstance(module, Stage) else module(h)
            skips.append(h)
        h = self.middle(h, embedding)
        for module in self.up:
            if isinstance(module, Stage):
                h = module(torch.cat([h, skips.pop()], dim=1), embedding)
            else:
                h = module(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return self.conv_out(F.silu(self.norm_out(h)))  # type: ignore[no-any-return]
