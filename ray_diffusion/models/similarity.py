"""How alike images are, one number per example, and how far latents are from normal noise.

Images are in [-1, 1], shape ``(B, C, H, W)``. All is computed in float32, also under autocast:
a variance of numbers in bfloat16 would be mostly rounding.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

RANGE = 2.0  # of pixels in [-1, 1]
LEAST_MSE = 1e-10  # far below what 8-bit levels can differ by

SSIM_WINDOW = 11  # pixels
SSIM_SIGMA = 1.5
SSIM_C1, SSIM_C2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2

COARSEST = 8  # pixels; a pyramid ends above half of that


def mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error of each example, shape ``(B,)``."""
    return (a.float() - b.float()).square().flatten(1).mean(1)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each example.

    Args:
        a: Images.
        b: Others.

    Returns:
        dB, shape ``(B,)``: ``10 log10(255^2 / MSE)`` of the same images in levels from 0 to 255.
        At most 106, where they are equal: means of it stay numbers.
    """
    return 10 * torch.log10(RANGE**2 / mse(a, b).clamp(min=LEAST_MSE))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of each example (Wang et al. 2004, doi:10.1109/TIP.2003.819861).

    With the paper's Gaussian window and constants, in every place where the whole window fits and
    each channel on its own. Where an image is smaller than 11 pixels, so is the window.

    Args:
        a: Images.
        b: Others.

    Returns:
        From -1 to 1, 1 for equal images, shape ``(B,)``; that of the same images in levels from
        0 to 255.
    """
    a, b = a.float(), b.float()
    rows, columns = (_gaussian_windows(side, a.device) for side in a.shape[-2:])
    mean_a, mean_b, squares, product = (
        _filtered(x, rows, columns) for x in (a, b, a * a + b * b, a * b)
    )
    variances = squares - mean_a.square() - mean_b.square()
    covariance = product - mean_a * mean_b
    light_a, light_b = mean_a + 1, mean_b + 1  # the paper's black is 0
    luminance = (2 * light_a * light_b + SSIM_C1) / (light_a.square() + light_b.square() + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (variances + SSIM_C2)
    return (luminance * structure).flatten(1).mean(1)


def laplacian_pyramid(x: Tensor, levels: int | None = None) -> list[Tensor]:
    """Details by size (Burt and Adelson 1983, doi:10.1109/TCOM.1983.1095851).

    Args:
        x: Images, or differences of images: a pyramid is linear.
        levels: How many, at least 1; None for as many as have sides of 8 pixels or more.

    Returns:
        Levels from fine to coarse, each of half the side of the one before, rounded up. The last
        is what remains without the details: the images themselves if there is but one.
    """
    x = x.float()
    if levels is None:
        levels = max((min(x.shape[-2:]) // COARSEST).bit_length(), 1)
    pyramid = []
    for _ in range(levels - 1):
        rows, columns = (_halving(side, x.device) for side in x.shape[-2:])
        coarse = _filtered(x, _averages(rows), _averages(columns))
        pyramid.append(x - _filtered(coarse, _averages(rows.T), _averages(columns.T)))
        x = coarse
    return [*pyramid, x]


def laplacian_pyramid_l1(a: Tensor, b: Tensor, levels: int | None = None) -> Tensor:
    """A distance that sees blur, as L1 does not: to that, what is lost is a few pixels at edges.

    Args:
        a: Images.
        b: Others.
        levels: See ``laplacian_pyramid``.

    Returns:
        The mean absolute difference of each level of their Laplacian pyramids, summed over the
        levels, shape ``(B,)``.
    """
    pyramid = laplacian_pyramid(a.float() - b.float(), levels)
    return torch.stack([level.abs().flatten(1).mean(1) for level in pyramid]).sum(0)


def kl_to_standard_normal(mean: Tensor, logvar: Tensor) -> Tensor:
    """Divergence of normal distributions from the standard one, ``KL(N(mean, var) || N(0, 1))``.

    Args:
        mean: Any shape.
        logvar: Logarithm of the variance, likewise.

    Returns:
        Nats of each dimension, at least 0, likewise.
    """
    mean, logvar = mean.float(), logvar.float()
    return (mean.square() + torch.expm1(logvar) - logvar) / 2


def _filtered(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """A separable filter, of which each output is a row of a matrix."""
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(F.linear(x, columns).mT, rows).mT


def _averages(rows: Tensor) -> Tensor:
    """Weights of sum 1, also at the borders, where a filter is cut off."""
    return rows / rows.sum(1, keepdim=True)


def _gaussian_windows(side: int, device: torch.device) -> Tensor:
    """A window for each place where it fits, shape ``(places, side)``."""
    width = min(SSIM_WINDOW, side)
    places = torch.arange(side - width + 1, device=device)
    offsets = torch.arange(side, device=device) - places[:, None] - (width - 1) / 2
    inside = offsets.abs() <= (width - 1) / 2
    return _averages(inside * torch.exp(-(offsets**2) / (2 * SSIM_SIGMA**2)))


def _halving(side: int, device: torch.device) -> Tensor:
    """The filter 1 4 6 4 1 around every second pixel, shape ``(side / 2 rounded up, side)``."""
    centers = torch.arange(0, side, 2, device=device)
    offsets = torch.arange(side, device=device) - centers[:, None]
    return torch.tensor([6.0, 4.0, 1.0, 0.0], device=device)[offsets.abs().clamp(max=3)]
