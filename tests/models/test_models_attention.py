import pytest
import torch

from ray_diffusion.models.attention import FEW, attend, heads_of


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


@pytest.mark.parametrize("tokens", [1, 16, FEW, FEW + 1])
def test_attention_in_bf16_has_the_values_and_gradients_of_the_exact_one(tokens: int):
    draw = torch.Generator().manual_seed(0)
    exact = torch.randn(2, tokens, 3 * 24, generator=draw).bfloat16().double().requires_grad_()
    towards = torch.randn(2, tokens, 24, generator=draw).bfloat16().double()
    rounded = exact.detach().bfloat16().requires_grad_()
    wanted, found = attend(exact, 3), attend(rounded, 3)
    wanted.backward(towards)
    found.backward(towards.bfloat16())
    assert exact.grad is not None
    assert rounded.grad is not None
    assert (found - wanted).norm() < 0.01 * wanted.norm()  # an epsilon is 0.008
    assert (rounded.grad - exact.grad).norm() < 0.01 * exact.grad.norm()
    with torch.no_grad():  # another kernel
        assert (attend(rounded, 3) - wanted).norm() < 0.01 * wanted.norm()
