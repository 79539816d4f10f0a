"""Attention of a set of tokens to itself, from one projection to queries, keys and values."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# Up to so many tokens torch's fused attention of bfloat16 is slower on a CPU than the plain
# products, backwards by far (benchmarks/norm.py). Beyond them their table of all pairs is large.
FEW = 256


def heads_of(width: int, head_width: int) -> int:
    """How many heads share a width.

    Args:
        width: Width of the tokens.
        head_width: Width of a head; wider where it does not divide the width.

    Returns:
        The most heads of at least that width that divide the width evenly, at least 1.
    """
    most = max(1, width // head_width)
    return next(n for n in range(most, 0, -1) if width % n == 0)


def attend(qkv: Tensor, heads: int) -> Tensor:
    """Mix the values of all tokens (Vaswani et al. 2017, arXiv:1706.03762).

    Args:
        qkv: Queries, keys and values side by side, shape ``(B, N, 3 * W)``.
        heads: Heads, a divisor of W.

    Returns:
        The mixtures, shape ``(B, N, W)``.
    """
    B, N, _ = qkv.shape
    q, k, v = qkv.view(B, N, 3, heads, -1).permute(2, 0, 3, 1, 4)  # each (B, heads, N, W / heads)
    slow = qkv.requires_grad and qkv.dtype == torch.bfloat16 and qkv.device.type == "cpu"
    mix = _in_products if slow and N <= FEW else F.scaled_dot_product_attention
    return mix(q, k, v).transpose(1, 2).flatten(2)


def _in_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q / math.sqrt(q.shape[-1]) @ k.mT).softmax(dim=-1) @ v
