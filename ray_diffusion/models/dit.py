"""A transformer on patches, DiT with adaLN-Zero (Peebles and Xie 2022, arXiv:2212.09748).

Shapes in the comments: B examples, N patches, W width of a token.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ray_diffusion.models.attention import attend, heads_of
from ray_diffusion.models.embedding import LogsnrEmbedding

HEAD_WIDTH = 64  # channels per head in DiT-S, B and L; XL has 72
WAVES = 256  # sines and cosines that tell the noise level


def positions(side: int, width: int) -> Tensor:
    """Sines and cosines of the column and the row of each patch.

    Args:
        side: Patches in a row and in a column.
        width: Width of a token, a multiple of 4.

    Returns:
        One vector for each patch, row by row, shape ``(side * side, width)``.
    """
    frequencies = torch.tensor([10_000 ** (-4 * i / width) for i in range(width // 4)])
    angles = torch.arange(side)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, width / 2)
    return torch.cat([waves.repeat(side, 1), waves.repeat_interleave(side, 0)], dim=1)


def _modulated(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6) * (1 + scale) + shift


class Block(nn.Module):
    """Attention and a small network, shifted, scaled and gated by the condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = heads_of(width, HEAD_WIDTH)
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        attention, mlp = self.modulation(condition)[:, None].chunk(2, dim=2)  # (B, 1, 3 * W) each
        shift, scale, gate = attention.chunk(3, dim=2)
        qkv = self.qkv(_modulated(tokens, shift, scale))
        tokens = tokens + gate * self.out(attend(qkv, self.heads))
        shift, scale, gate = mlp.chunk(3, dim=2)
        return tokens + gate * self.mlp(_modulated(tokens, shift, scale))  # type: ignore[no-any-return]


class DiT(nn.Module):
    """Predicts from a noisy image, its noise level and its class.

    Args:
        image_channels: Channels of the image.
        out_channels: Channels of the prediction.
        num_classes: Classes; one more, ``num_classes`` itself, means "no class".
        channels: Width of a token, a multiple of 8.
        depth: Blocks.
        patch_size: Side of a patch, pixels.
        image_size: Side of an image, a multiple of it.
    """

    def __init__(
        self,
        image_channels: int,
        out_channels: int,
        num_classes: int,
        channels: int,
        depth: int,
        patch_size: int,
        image_size: int,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.logsnr_embedding = LogsnrEmbedding(WAVES, channels)
        self.class_embedding = nn.Embedding(num_classes + 1, channels)
        self.patch_embedding = nn.Conv2d(image_channels, channels, patch_size, stride=patch_size)
        self.register_buffer(
            "positions", positions(image_size // patch_size, channels), persistent=False
        )
        self.blocks = nn.ModuleList(Block(channels) for _ in range(depth))
        self.modulation = nn.Linear(channels, 2 * channels)
        self.out = nn.Linear(channels, patch_size**2 * out_channels)
        self._start()

    def _start(self) -> None:
        """Each block as the identity and the prediction as zero; the rest as DiT's code has it."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1 or "modulation" in name or name.startswith("out."):
                nn.init.zeros_(parameter)
            elif "embedding.mlp" in name or "class_embedding" in name:
                nn.init.normal_(parameter, std=0.02)
            else:
                nn.init.xavier_uniform_(parameter.flatten(1))

    def forward(self, x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Tensor:
        """Predict; see ``unet.UNet.forward``."""
        condition = F.silu(self.logsnr_embedding(logsnr) + self.class_embedding(condition))
        patches = self.patch_embedding(x_t.contiguous(memory_format=torch.channels_last))
        tokens = patches.flatten(2).transpose(1, 2) + self.positions  # (B, N, W)
        for block in self.blocks:
            tokens = block(tokens, condition)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=2)
        tokens = self.out(_modulated(tokens, shift, scale))
        squares = tokens.transpose(1, 2).reshape(len(x_t), -1, *patches.shape[2:])
        return F.pixel_shuffle(squares, self.patch_size)
