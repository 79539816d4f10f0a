"""Between 8-bit pixels and the numbers a network works on; the codec of a pixel model."""

import torch
from torch import Tensor


def encode(pixels: Tensor) -> Tensor:
    """Map 0..255 to [-1, 1].

    Args:
        pixels: uint8, any shape.

    Returns:
        float32, same shape.
    """
    return pixels.float() / 127.5 - 1


def decode(x0: Tensor) -> Tensor:
    """Map [-1, 1] to 0..255, rounding and clipping; the inverse of ``encode``.

    Args:
        x0: Floats, any shape.

    Returns:
        uint8, same shape.
    """
    return ((x0.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def contact_sheet(images: Tensor, columns: int, least_side: int = 48, gap: int = 2) -> Tensor:
    """Lay images out in rows, small ones enlarged so that a person can see them.

    Args:
        images: uint8, shape ``(N, C, H, W)``.
        columns: Images per row.
        least_side: Each image is enlarged by a whole factor to at least this side, pixels.
        gap: White pixels around each image.

    Returns:
        One RGB picture, uint8, shape ``(height, width, 3)``.
    """
    factor = max(1, -(-least_side // images.shape[-1]))
    large = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    large = large.expand(-1, 3, -1, -1) if large.shape[1] == 1 else large
    framed = torch.nn.functional.pad(large, (gap, gap, gap, gap), value=255)
    rows = -(-len(framed) // columns)
    blank = framed.new_full((rows * columns - len(framed), *framed.shape[1:]), 255)
    cells = torch.cat([framed, blank]).view(
        rows, columns, *framed.shape[1:]
    )  # (rows, columns, 3, h, w)
    return cells.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2).contiguous()
