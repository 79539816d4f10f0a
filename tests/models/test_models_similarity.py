import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ray_diffusion.models.pixels import encode
from ray_diffusion.models.similarity import (
    kl_to_standard_normal,
    laplacian_pyramid,
    laplacian_pyramid_l1,
    mse,
    psnr,
    ssim,
)

Array = NDArray[np.float64]
sides = st.integers(1, 21)


def levels_of(seed: int, height: int, width: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Two batches of 8-bit images, of which the second is a noisy version of the first."""
    own = torch.Generator().manual_seed(seed)
    shape = batch, 3, height, width
    first = torch.randint(256, shape, generator=own)
    noise = torch.randint(-60, 61, shape, generator=own)
    return first.to(torch.uint8), (first + noise).clamp(0, 255).to(torch.uint8)


def images(seed: int = 0, height: int = 24, width: int = 24) -> tuple[Tensor, Tensor]:
    first, second = levels_of(seed, height, width)
    return encode(first), encode(second)


def ssim_of_channels(a: Array, b: Array) -> float:
    """The paper's figure of two images in levels of 0 to 255, one window after the other."""
    height, width = min(11, a.shape[0]), min(11, a.shape[1])
    y, x = (np.arange(side) - (side - 1) / 2 for side in (height, width))
    window = np.exp(-(y[:, None] ** 2 + x**2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    found = []
    for top in range(a.shape[0] - height + 1):
        for left in range(a.shape[1] - width + 1):
            p, q = (one[top : top + height, left : left + width] for one in (a, b))
            mean_p, mean_q = (window * p).sum(), (window * q).sum()
            var_p, var_q = (window * (p - mean_p) ** 2).sum(), (window * (q - mean_q) ** 2).sum()
            covariance = (window * (p - mean_p) * (q - mean_q)).sum()
            found.append(
                (2 * mean_p * mean_q + c1)
                * (2 * covariance + c2)
                / ((mean_p**2 + mean_q**2 + c1) * (var_p + var_q + c2))
            )
    return float(np.mean(found))


def reduced(x: Array) -> Array:
    """Burt and Adelson's REDUCE along the first axis; at borders the weights inside count."""
    weights = {-2: 1, -1: 4, 0: 6, 1: 4, 2: 1}
    rows = []
    for center in range(0, len(x), 2):
        inside = {i: w for i, w in weights.items() if 0 <= center + i < len(x)}
        rows.append(sum(w * x[center + i] for i, w in inside.items()) / sum(inside.values()))
    return np.stack(rows)


def expanded(x: Array, side: int) -> Array:
    """Their EXPAND along the first axis: zeros in between, the same filter, as bright as before."""
    stuffed, there = np.zeros((side + 4, *x.shape[1:])), np.zeros(side + 4)
    stuffed[2 : side + 2 : 2], there[2 : side + 2 : 2] = x, 1
    taps = np.array([1, 4, 6, 4, 1])
    rows = [
        np.tensordot(taps, stuffed[i : i + 5], 1) / (taps @ there[i : i + 5]) for i in range(side)
    ]
    return np.stack(rows)


@given(seed=st.integers(0, 99), height=sides, width=sides)
def test_ssim_is_the_papers_of_8_bit_levels(seed: int, height: int, width: int):
    first, second = levels_of(seed, height, width)
    wanted = [
        np.mean([ssim_of_channels(p, q) for p, q in zip(a, b, strict=True)])
        for a, b in zip(first.double().numpy(), second.double().numpy(), strict=True)
    ]
    np.testing.assert_allclose(ssim(encode(first), encode(second)), wanted, atol=2e-5)


@given(seed=st.integers(0, 99), height=sides, width=sides)
def test_psnr_is_that_of_8_bit_levels(seed: int, height: int, width: int):
    first, second = levels_of(seed, height, width)
    second[:, 0, 0, 0] = 255 - first[:, 0, 0, 0]  # so that they differ
    errors = ((first.double() - second.double()) ** 2).flatten(1).mean(1)
    wanted = 10 * torch.log10(255**2 / errors)
    np.testing.assert_allclose(psnr(encode(first), encode(second)), wanted, atol=1e-4)


def test_psnr_of_known_noise():
    a = torch.zeros(2, 3, 8, 8)
    b = a + torch.tensor([0.2, 0.02]).view(2, 1, 1, 1)  # a tenth of the range, and a hundredth
    torch.testing.assert_close(psnr(a, b), torch.tensor([20.0, 40.0]))
    torch.testing.assert_close(psnr(a, a), torch.full((2,), 10 * math.log10(4e10)))


@given(height=sides, width=sides, levels=st.integers(1, 4))
def test_a_pyramid_is_burts_and_adelsons_and_gives_the_image_back(
    height: int, width: int, levels: int
):
    image, _ = images(height * width, height, width)
    found = [level.double().numpy() for level in laplacian_pyramid(image, levels)]
    assert len(found) == levels
    down = [np.moveaxis(image.double().numpy(), (2, 3), (0, 1))]
    for _ in range(levels - 1):
        down.append(reduced(reduced(down[-1]).swapaxes(0, 1)).swapaxes(0, 1))
    restored = np.zeros_like(down[-1])
    for level, low in zip(reversed(found), reversed(down), strict=True):
        if restored.shape != low.shape:
            rows, columns = low.shape[:2]
            restored = expanded(restored, rows).swapaxes(0, 1)
            restored = expanded(restored, columns).swapaxes(0, 1)
        restored = restored + np.moveaxis(level, (2, 3), (0, 1))
        np.testing.assert_allclose(restored, low, atol=1e-5)


def test_a_pyramid_ends_at_eight_pixels():
    def shapes(height: int, width: int) -> list[tuple[int, ...]]:
        return [tuple(level.shape[2:]) for level in laplacian_pyramid(images(0, height, width)[0])]

    assert shapes(64, 64) == [(64, 64), (32, 32), (16, 16), (8, 8)]
    assert shapes(16, 70) == [(16, 70), (8, 35)]
    assert shapes(15, 15) == [(15, 15)]
    assert shapes(4, 4) == [(4, 4)]


def test_the_distance_of_pyramids_is_that_of_their_levels():
    a, b = images()
    pairs = zip(laplacian_pyramid(a, 3), laplacian_pyramid(b, 3), strict=True)
    wanted = torch.stack([(p - q).abs().flatten(1).mean(1) for p, q in pairs]).sum(0)
    torch.testing.assert_close(laplacian_pyramid_l1(a, b, 3), wanted)
    torch.testing.assert_close(laplacian_pyramid_l1(a, b, 1), (a - b).abs().flatten(1).mean(1))


def test_an_even_shade_counts_once_and_lost_detail_more_often():
    flat = torch.zeros(1, 1, 32, 32)
    shade = laplacian_pyramid_l1(flat, flat + 0.25, 3)
    torch.testing.assert_close(shade, torch.tensor([0.25]))
    blocks = 0.25 * (1 - 2 * (torch.arange(32) // 4 % 2)).expand(1, 1, 32, 32)
    assert laplacian_pyramid_l1(flat, blocks, 3) > 1.2 * shade  # the same L1


@given(mean=st.floats(-5, 5), logvar=st.floats(-30, 10))
def test_the_divergence_is_torchs(mean: float, logvar: float):
    pair = torch.tensor([mean, mean / 2]), torch.tensor([logvar, logvar / 3])
    posterior = Normal(pair[0].double(), (pair[1].double() / 2).exp())
    wanted = kl_divergence(posterior, Normal(torch.zeros(2).double(), torch.ones(2).double()))
    torch.testing.assert_close(kl_to_standard_normal(*pair).double(), wanted, rtol=1e-5, atol=1e-6)


def test_the_divergence_of_normal_noise_is_nothing():
    assert not kl_to_standard_normal(torch.zeros(2, 3), torch.zeros(2, 3)).any()


@pytest.mark.parametrize("measure", [mse, ssim, laplacian_pyramid_l1])
def test_equal_images_are_alike_with_finite_gradients(measure):
    a = images()[0].requires_grad_()
    found = measure(a, a.detach())
    assert found.tolist() == [1.0 if measure is ssim else 0.0] * 2
    (gradient,) = torch.autograd.grad(found.sum(), a)
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 1e-4


@pytest.mark.parametrize("measure", [mse, psnr, ssim, laplacian_pyramid_l1])
def test_each_example_counts_alone_and_neither_image_comes_first(measure):
    a, b = images()
    found = measure(a, b)
    assert found.shape == (2,)
    torch.testing.assert_close(measure(b, a), found)
    torch.testing.assert_close(measure(a.flip(0), b.flip(0)), found.flip(0))
    torch.testing.assert_close(measure(a[:1], b[:1]), found[:1])


@pytest.mark.parametrize("measure", [mse, psnr, ssim, laplacian_pyramid_l1])
def test_an_autocast_and_the_layout_change_nothing(measure):
    a, b = images()
    found = measure(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        assert measure(a, b).equal(found)
    laid_out = (x.contiguous(memory_format=torch.channels_last) for x in (a, b))
    torch.testing.assert_close(measure(*laid_out), found)
    assert measure(a.bfloat16(), b.bfloat16()).dtype == torch.float32
