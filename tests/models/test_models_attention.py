import pytest
import torch

from ray_diffusion.models.attention import attend, heads_of


@pytest.mark.parametrize(
    ("width", "head_width", "heads"),
    [(64, 32, 2), (32, 32, 1), (8, 32, 1), (104, 32, 2), (96, 32, 3), (384, 64, 6), (1152, 64, 18)],
)
def test_heads_divide_the_width_and_are_no_narrower_than_asked(width, head_width, heads):
    assert heads_of(width, head_width) == heads
    assert width % heads == 0


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_is_the_softmax_of_scaled_products(heads: int):
    B, N, W = 2, 5, 8
    qkv = torch.randn(B, N, 3 * W, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.empty(B, N, W, dtype=torch.float64)
    size = W // heads
    for head in range(heads):
        q, k, v = (qkv[..., i * W + head * size :][..., :size] for i in range(3))
        weights = (q @ k.mT / size**0.5).softmax(dim=-1)
        expected[..., head * size :][..., :size] = weights @ v
    torch.testing.assert_close(attend(qkv, heads), expected)
