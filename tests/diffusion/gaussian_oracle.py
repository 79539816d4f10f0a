"""Data of which everything is known in closed form: independent pixels, each N(mean, sd^2)."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ray_diffusion.diffusion.denoiser import Estimate
from ray_diffusion.diffusion.gaussian import alpha_sigma, per_example
from ray_diffusion.diffusion.sampling import visit
from ray_diffusion.diffusion.solvers import DEFAULTS, Options, Step, nowhere


@dataclass(frozen=True)
class GaussianOracle:
    """A perfect denoiser, and what samplers must make of it.

    Attributes:
        means: Mean of the pixels of each class.
        sd: Their standard deviation, the same in all classes.
    """

    means: tuple[float, ...] = (0.4,)
    sd: float = 0.25

    def __call__(self, x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Estimate:
        """The expectation of x0 given x_t, and not a word about its variance."""
        alpha, sigma = (per_example(value, x_t) for value in alpha_sigma(logsnr))
        mean = per_example(torch.tensor(self.means, dtype=torch.float64)[condition], x_t)
        gain = alpha * self.sd**2 / ((alpha * self.sd) ** 2 + sigma**2)
        return Estimate(mean + gain * (x_t - alpha * mean))

    def with_variance(self, x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Estimate:
        """The expectation and the variance of x0 given x_t."""
        x0 = self(x_t, logsnr, condition).x0
        return Estimate(x0, per_example(self.x0_var(logsnr), x_t))

    def eps_mse(self, logsnr: Tensor) -> Tensor:
        """``E (noise - eps)^2`` per dimension."""
        return torch.sigmoid(logsnr.double() + 2 * math.log(self.sd))

    def x0_var(self, logsnr: Tensor) -> Tensor:
        """``Var[x0 | x_t]`` per dimension; the same for every x_t."""
        return self.eps_mse(logsnr) * torch.exp(-logsnr.double())

    def ode_map(self, x: Tensor, logsnr: Tensor, logsnr_end: Tensor) -> Tensor:
        """Where the probability flow carries ``x``: it keeps the standardised value."""
        (alpha, sigma), (alpha_end, sigma_end) = alpha_sigma(logsnr), alpha_sigma(logsnr_end)
        before = ((alpha * self.sd) ** 2 + sigma**2).sqrt()
        after = ((alpha_end * self.sd) ** 2 + sigma_end**2).sqrt()
        return alpha_end * self.means[0] + after * (x - alpha * self.means[0]) / before

    def ancestral_chain(self, grid: Tensor, variance: str = "beta_tilde") -> tuple[float, float]:
        """Mean and sd of the end of the ancestral chain from N(0, 1): no sampling, and no solver.

        Each step is linear in x_t with Gaussian noise, so mean and variance follow a recursion;
        its coefficients are those of Ho et al. 2020 (arXiv:2006.11239), equation 7.

        Args:
            grid: Increasing logsnr, the last infinite.
            variance: Of the steps but the last: ``beta_tilde``, ``beta`` or ``analytic``.
        """
        alpha_bars = torch.sigmoid(grid.double()).tolist()
        mean, spread = 0.0, 1.0
        for at, before in pairwise(alpha_bars):
            beta = 1 - at / before
            c0 = before**0.5 * beta / (1 - at)
            ct = (1 - beta) ** 0.5 * (1 - before) / (1 - at)
            left = at * self.sd**2 + 1 - at
            gain = at**0.5 * self.sd**2 / left
            tilde = beta * (1 - before) / (1 - at)
            added = {
                "beta_tilde": tilde,
                "beta": beta,
                "analytic": tilde + c0**2 * self.sd**2 * (1 - at) / left,
            }[variance]
            mean = c0 * (self.means[0] + gain * (mean - at**0.5 * self.means[0])) + ct * mean
            spread = (c0 * gain + ct) ** 2 * spread + (added if before < 1 else 0.0)
        return mean, spread**0.5

    def end_of(
        self, step: Step, levels: Tensor, options: Options = DEFAULTS, with_variance: bool = False
    ) -> tuple[float, float]:
        """Mean and sd of the end of a solver's chain from N(0, 1), to rounding: no sampling.

        With this denoiser a step is linear in x_t and in the noise, so three points say all of
        it, if it does not look at the visit before.
        """
        model, condition = self.with_variance if with_variance else self, torch.zeros(3).long()
        x = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)
        noise, before = x[[0, 0, 1]], nowhere(x)
        mean, spread = 0.0, 1.0
        for level, following in pairwise(levels):
            now = visit(model, x, level.expand(3), condition)
            at_0, at_1, with_noise = step(now, before, following.expand(3), noise, options)
            slope, added = float(at_1 - at_0), float(with_noise - at_0)
            mean, spread = float(at_0) + slope * mean, slope**2 * spread + added**2
        return mean, spread**0.5
