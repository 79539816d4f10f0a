import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from ray_diffusion.models.norm import VECTOR, GroupNorm

WIDTHS = [4, VECTOR - 1, VECTOR, VECTOR + 4]  # channels of a group
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2**-8}  # relative
dtypes = pytest.mark.parametrize("dtype", ROUNDING)
widths = pytest.mark.parametrize("width", WIDTHS)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Numbers that bfloat16 holds exactly, with a mean of a half."""
    own = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=own) + 0.5).bfloat16().double()


def layer(groups: int, channels: int) -> GroupNorm:
    made = GroupNorm(groups, channels)
    with torch.no_grad():
        made.weight.copy_(drawn(channels, seed=1))
        made.bias.copy_(drawn(channels, seed=2))
    return made


def laid_out(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def formula(made: nn.GroupNorm, x: Tensor) -> Tensor:
    return F.group_norm(x, made.num_groups, made.weight.double(), made.bias.double(), made.eps)


@dtypes
@given(
    batch=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 8]),
    width=st.sampled_from(WIDTHS),
    sides=st.tuples(st.integers(2, 9), st.integers(1, 9)),
    seed=st.integers(0, 99),
)
def test_values_are_those_of_the_formula(
    dtype: torch.dtype, batch: int, groups: int, width: int, sides: tuple[int, int], seed: int
):
    made, x = layer(groups, groups * width), drawn(batch, groups * width, *sides, seed=seed)
    found, exact = made(laid_out(x, dtype)), formula(made, x)
    assert found.dtype == dtype
    assert (found - exact).norm() <= ROUNDING[dtype] * exact.norm()


@dtypes
@widths
def test_gradients_are_those_of_the_formula(dtype: torch.dtype, width: int):
    made, x, towards = (
        layer(8, 8 * width),
        drawn(3, 8 * width, 5, 7),
        drawn(3, 8 * width, 5, 7, seed=3),
    )
    exact, inside = x.clone().requires_grad_(), laid_out(x, dtype).requires_grad_()
    wrt = made.weight, made.bias
    wanted = torch.autograd.grad(formula(made, exact), (exact, *wrt), towards)
    found = torch.autograd.grad(made(inside), (inside, *wrt), laid_out(towards, dtype))
    assert [g.dtype for g in found] == [dtype, torch.float32, torch.float32]
    for gradient, exact_gradient in zip(found, wanted, strict=True):
        assert (gradient - exact_gradient).norm() <= ROUNDING[dtype] * exact_gradient.norm()


@widths
def test_rounded_weights_are_taken_at_their_word(width: int):
    made, x = layer(2, 2 * width), drawn(2, 2 * width, 4, 4)
    exact = formula(made, x)  # its weights are exact in bfloat16
    found = made.bfloat16()(laid_out(x, torch.bfloat16))
    assert (found - exact).norm() <= 2**-8 * exact.norm()


@dtypes
@widths
def test_the_layout_stays_and_the_same_input_gives_the_same_bits(dtype: torch.dtype, width: int):
    made, x = layer(8, 8 * width), laid_out(drawn(2, 8 * width, 4, 4), dtype)
    assert made(x).is_contiguous(memory_format=torch.channels_last)
    assert made(x).equal(made(x.clone()))


@dtypes
@widths
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_what_is_not_finite_spoils_its_group_and_no_other(
    dtype: torch.dtype, width: int, broken: float
):
    x = laid_out(drawn(2, 2 * width, 4, 4), dtype)
    whole = layer(2, 2 * width)(x)
    x[1, 0, 2, 2] = broken
    spoiled = layer(2, 2 * width)(x)
    assert spoiled[1, :width].isnan().all()
    assert spoiled[0].equal(whole[0])
    assert spoiled[1, width:].equal(whole[1, width:])


@dtypes
def test_nothing_is_normalised_to_nothing(dtype: torch.dtype):
    empty = laid_out(torch.empty(0, 8, 4, 4), dtype).requires_grad_()
    found = GroupNorm(2, 8)(empty)
    found.sum().backward()
    assert found.shape == empty.shape
    assert empty.grad is not None


def test_the_weights_have_the_names_of_torchs():
    assert GroupNorm(2, 8).state_dict().keys() == nn.GroupNorm(2, 8).state_dict().keys()
