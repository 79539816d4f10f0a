"""Data of which everything is known in closed form: independent pixels, each N(mean, sd^2)."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ray_diffusion.diffusion.gaussian import alpha_sigma, per_example


@dataclass(frozen=True)
class GaussianOracle:
    """A perfect denoiser, and what samplers must make of it.

    Attributes:
        means: Mean of the pixels of each class.
        sd: Their standard deviation, the same in all classes.
    """

    means: tuple[float, ...] = (0.4,)
    sd: float = 0.25

    def __call__(self, x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Tensor:
        """The expectation of x0 given x_t."""
        alpha, sigma = (per_example(value, x_t) for value in alpha_sigma(logsnr))
        mean = per_example(torch.tensor(self.means, dtype=torch.float64)[condition], x_t)
        gain = alpha * self.sd**2 / ((alpha * self.sd) ** 2 + sigma**2)
        return mean + gain * (x_t - alpha * mean)

    def ode_map(self, x: Tensor, logsnr: Tensor, logsnr_end: Tensor) -> Tensor:
        """Where the probability flow carries ``x``: it keeps the standardised value."""
        (alpha, sigma), (alpha_end, sigma_end) = alpha_sigma(logsnr), alpha_sigma(logsnr_end)
        before = ((alpha * self.sd) ** 2 + sigma**2).sqrt()
        after = ((alpha_end * self.sd) ** 2 + sigma_end**2).sqrt()
        return alpha_end * self.means[0] + after * (x - alpha * self.means[0]) / before

    def ancestral_chain(self, grid: Tensor) -> tuple[float, float]:
        """Mean and sd of the end of the ancestral chain from N(0, 1): no sampling, and no solver.

        Each step is linear in x_t with Gaussian noise, so mean and variance follow a recursion;
        its coefficients are those of Ho et al. 2020 (arXiv:2006.11239), equation 7.
        """
        alpha_bars = torch.sigmoid(grid.double()).tolist()
        mean, variance = 0.0, 1.0
        for at, before in pairwise(alpha_bars):
            beta = 1 - at / before
            c0 = before**0.5 * beta / (1 - at)
            ct = (1 - beta) ** 0.5 * (1 - before) / (1 - at)
            gain = at**0.5 * self.sd**2 / (at * self.sd**2 + 1 - at)
            mean = c0 * (self.means[0] + gain * (mean - at**0.5 * self.means[0])) + ct * mean
            variance = (c0 * gain + ct) ** 2 * variance + beta * (1 - before) / (1 - at)
        return mean, variance**0.5
