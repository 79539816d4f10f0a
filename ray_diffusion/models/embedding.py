"""The noise level as a vector, the one way in which networks are told it."""

import torch
from torch import Tensor, nn

# At 20 the noise is less than 1/100 of a grey level of 8 bits, at -20 the signal is. Levels beyond
# differ by nothing that an image shows, and schedules that end in noise alone reach about -36.
LEAST, MOST = -20.0, 20.0


class LogsnrEmbedding(nn.Module):
    """Sines and cosines of the noise level, then a small network; ``(B,) -> (B, width)``.

    Args:
        waves: Sines and cosines together, even, at least 4.
        width: Width of the small network and of the embedding.
    """

    def __init__(self, waves: int, width: int) -> None:
        super().__init__()
        # Wavelengths from 2 pi / 4 up to 2 pi / 0.04: the shortest tells neighbouring steps
        # apart, the longest does not repeat between LEAST and MOST.
        half = waves // 2
        frequencies = torch.tensor([0.04 * 100 ** (i / (half - 1)) for i in range(half)])
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(waves, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, logsnr: Tensor) -> Tensor:
        angles = logsnr.float().clamp(LEAST, MOST)[:, None] * self.frequencies  # type: ignore[operator]
        return self.mlp(torch.cat([angles.sin(), angles.cos()], dim=1))  # type: ignore[no-any-return]
