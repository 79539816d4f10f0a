"""A finite training set: its best denoiser remembers it, and no model is better on it."""

import itertools

import pytest
import torch
from gaussian_oracle import GaussianOracle
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial.hermite_e import hermegauss
from tables import table
from torch import Tensor

from ray_diffusion.diffusion.denoiser import Denoiser, Estimate
from ray_diffusion.diffusion.gaussian import alpha_sigma
from ray_diffusion.diffusion.grids import itinerary
from ray_diffusion.diffusion.profile import PROFILE_LEVELS, eps_error, x0_variance
from ray_diffusion.diffusion.random import generator
from ray_diffusion.diffusion.sampling import sample
from ray_diffusion.diffusion.solvers import SOLVERS

POINTS = torch.tensor([[-0.6], [-0.1], [0.2], [0.9]], dtype=torch.float64)


def remembering(points: Tensor) -> Denoiser:
    """The best denoiser of a training set, shape ``(N, ...)``: E[x0 | x_t] by Bayes' rule."""

    def estimate(x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Estimate:
        alpha, sigma = (value[:, None, None] for value in alpha_sigma(logsnr))
        flat = points.flatten(1).to(x_t.dtype).double()
        gaps = x_t.double().flatten(1)[:, None] - alpha * flat[None]
        share = torch.softmax(-gaps.square().sum(2) / (2 * sigma[:, :, 0] ** 2), dim=1)
        return Estimate((share @ flat).view_as(x_t).to(x_t.dtype))

    return estimate


def train_profile(model: Denoiser, points: Tensor) -> Tensor:
    """The error on training points of one pixel at ``PROFILE_LEVELS``, over all noise at once."""
    nodes, weights = (torch.from_numpy(value) for value in hermegauss(100))
    pairs = torch.tensor(list(itertools.product(points.flatten().tolist(), nodes.tolist())))
    x0, noise = pairs.double().T[..., None]
    likely = (weights / weights.sum()).repeat(len(points)) / len(points)
    errors = []
    for level in PROFILE_LEVELS:
        logsnr = torch.full((len(x0),), float(level), dtype=torch.float64)
        errors.append((likely * eps_error(model, x0, logsnr.long() * 0, logsnr, noise)).sum())
    return torch.stack(errors)


@given(st.floats(-9, 9), st.floats(-3, 3))
def test_of_two_points_the_best_denoiser_is_a_hyperbolic_tangent(level: float, x: float):
    logsnr = torch.tensor([level], dtype=torch.float64)
    alpha, sigma = alpha_sigma(logsnr)
    x_t = torch.tensor([[x]], dtype=torch.float64)
    points = torch.tensor([[0.7], [-0.7]], dtype=torch.float64)
    found = remembering(points)(x_t, logsnr, torch.zeros(1)).x0
    expected = 0.7 * torch.tanh(0.7 * alpha * x_t / sigma**2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("other", ["gaussian", "of one point less", "blurred", "shrunk"])
def test_no_denoiser_has_a_lower_error_on_the_training_set_at_any_level(other: str):
    best = remembering(POINTS)
    gaussian = GaussianOracle((float(POINTS.mean()),), float(POINTS.std(correction=0)))
    others: dict[str, Denoiser] = {
        "gaussian": gaussian,
        "of one point less": remembering(POINTS[1:]),
        "blurred": lambda x, level, c: best(x, level - 0.3, c),
        "shrunk": lambda x, level, c: Estimate(0.97 * best(x, level, c).x0 + 0.003),
    }
    floor, found = train_profile(best, POINTS), train_profile(others[other], POINTS)
    # A quadrature of 100 nodes is exact to 1e-9 of the greatest error.
    assert (found >= floor - 1e-9).all()
    assert found.sum() > 1.001 * floor.sum()


def test_the_floor_falls_to_nothing_where_the_points_are_apart():
    floor = train_profile(remembering(POINTS), POINTS)
    gaussian = train_profile(
        GaussianOracle((float(POINTS.mean()),), float(POINTS.std(correction=0))), POINTS
    )
    # In noise all denoisers know the mean alone; near clean data only memory says more.
    assert float(floor[0] / gaussian[0]) == pytest.approx(1, abs=1e-3)
    assert floor[-1] < 1e-9 < 0.9 < gaussian[-1]


def test_the_floor_in_noise_is_the_variance_of_the_points():
    floor = train_profile(remembering(POINTS), POINTS)
    assert float(x0_variance(floor)[0]) == pytest.approx(float(POINTS.var(correction=0)), rel=1e-3)


@pytest.mark.parametrize("solver", ["ddim", "ddpm", "heun", "dpmpp_2m"])
def test_samples_of_the_best_denoiser_are_training_points(solver: str):
    draw = generator("training set")
    points = torch.rand(20, 1, 4, 4, generator=draw) * 2 - 1
    levels = itinerary("uniform_logsnr", table("cosine"), 60, SOLVERS[solver].visits)
    indices = list(range(30))
    x = sample(remembering(points), torch.zeros(30), (1, 4, 4), levels, solver, 0, indices)
    distance, nearest = (x[:, None] - points[None]).flatten(2).norm(dim=2).min(1)
    assert distance.max() < 1e-4
    assert len(nearest.unique()) > 8
