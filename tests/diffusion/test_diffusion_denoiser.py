import math

import pytest
import torch
from gaussian_oracle import GaussianOracle
from tables import table
from torch import Tensor

from ray_diffusion.diffusion.denoiser import (
    Denoiser,
    Estimate,
    clipped,
    denoiser,
    guided,
    with_x0_variance,
    without_x0_variance,
)
from ray_diffusion.diffusion.gaussian import add_noise, per_example
from ray_diffusion.diffusion.grids import itinerary
from ray_diffusion.diffusion.parameterization import PARAMETERIZATIONS, target
from ray_diffusion.diffusion.profile import PROFILE_LEVELS, x0_variance
from ray_diffusion.diffusion.random import generator
from ray_diffusion.diffusion.sampling import sample, walk
from ray_diffusion.diffusion.solvers import DEFAULTS
from ray_diffusion.diffusion.variance import learned_x0_variance

CLASS, NULL = 0, 1
TWO = GaussianOracle(means=(0.5, -0.3))
GUIDED_MEAN = -0.3 + 2.5 * (0.5 - -0.3)  # 1.7, by the definition of guidance at scale 2.5
ENDS = torch.tensor([9.0, -9.0], dtype=torch.float64)


class Counted:
    """A denoiser that keeps the size of each batch it was asked for."""

    def __init__(self, inner: Denoiser) -> None:
        self.inner, self.batches = inner, list[int]()

    def __call__(self, x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Estimate:
        self.batches.append(len(x_t))
        return self.inner(x_t, logsnr, condition)


def noisy(batch: int) -> tuple[Tensor, Tensor]:
    x_t = torch.randn(batch, 1, 4, 4, generator=generator("denoiser test"), dtype=torch.float64)
    return x_t, torch.linspace(-9, 9, batch, dtype=torch.float64)


def zeros(batch: int) -> Tensor:
    return torch.zeros(batch, dtype=torch.int64)


def test_guidance_of_two_gaussians_is_the_denoiser_of_a_third():
    x_t, logsnr = noisy(19)
    x0 = guided(TWO, torch.full((19,), 2.5), NULL)(x_t, logsnr, torch.full((19,), CLASS)).x0
    expected = GaussianOracle(means=(GUIDED_MEAN,))(x_t, logsnr, zeros(19)).x0
    torch.testing.assert_close(x0, expected, rtol=0, atol=1e-12)


def test_guided_samples_are_those_of_the_third_gaussian():
    # The solver is linear here: where 0 and 1 end up says all of the distribution at the end.
    start = torch.tensor([[[[0.0]]], [[[1.0]]]], dtype=torch.float64)
    levels = itinerary("uniform_logsnr", table("cosine"), 64)
    model = guided(TWO, torch.full((2,), 2.5), NULL)
    end = walk(model, start, torch.full((2,), CLASS), levels, "dpmpp_2m", DEFAULTS, 0, [0, 1])
    # At logsnr -10 x_T has the mean 1.7 exp(-5); starting at 0 costs 0.25 times that.
    assert float(end[0]) == pytest.approx(1.7 - 0.25 * 1.7 * math.exp(-5), abs=1e-4)
    assert float(end[1] - end[0]) == pytest.approx(0.25, abs=4e-4)


def test_guided_ancestral_samples_have_the_moments_of_their_recursion():
    grid = itinerary("trailing", table("cosine"), 100)
    scale, condition = torch.tensor([2.5]), torch.tensor([CLASS])
    x = sample(guided(TWO, scale, NULL), condition, (1, 150, 150), grid, "ddpm", 0, [0]).double()
    mean, sd = GaussianOracle(means=(GUIDED_MEAN,)).ancestral_chain(grid)
    assert mean == pytest.approx(1.7, abs=0.02)  # what 100 steps leave of the start at 0
    assert abs(x.mean() - mean) / (sd / x.numel() ** 0.5) < 4


def test_scale_1_is_no_guidance_and_costs_none():
    inner = Counted(TWO)
    x_t, logsnr = noisy(3)
    condition = torch.full((3,), CLASS)
    x0 = guided(inner, torch.ones(3), NULL)(x_t, logsnr, condition).x0
    assert inner.batches == [3]
    assert x0.equal(TWO(x_t, logsnr, condition).x0)


def test_both_halves_of_guidance_are_one_call():
    inner = Counted(TWO)
    x_t, logsnr = noisy(3)
    guided(inner, torch.full((3,), 2.0), NULL)(x_t, logsnr, torch.full((3,), CLASS))
    assert inner.batches == [6]


def test_each_image_has_its_own_scale():
    x_t, logsnr = noisy(3)
    condition = torch.full((3,), CLASS)
    x0 = guided(TWO, torch.tensor([0.0, 1.0, 2.5]), NULL)(x_t, logsnr, condition).x0
    for i, mean in enumerate([-0.3, 0.5, GUIDED_MEAN]):
        alone = GaussianOracle(means=(mean,))(x_t, logsnr, zeros(3)).x0
        torch.testing.assert_close(x0[i], alone[i], rtol=0, atol=1e-12)


def test_guidance_keeps_the_variance_of_the_class():
    def model(x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Estimate:
        return Estimate(x_t, per_example(condition + 1.0, x_t))

    x_t, logsnr = noisy(2)
    found = guided(model, torch.full((2,), 2.0), 7)(x_t, logsnr, torch.tensor([3, 4])).x0_var
    assert found is not None
    assert found.flatten().tolist() == [4, 5]


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_a_network_that_knows_the_answer_is_a_perfect_denoiser(name: str):
    noise, logsnr = noisy(7)
    x0 = torch.linspace(-1, 1, noise.numel(), dtype=torch.float64).view_as(noise)
    prediction = target(name, x0, noise, logsnr)
    found = denoiser(lambda *_: prediction, name, ENDS)(
        add_noise(x0, noise, logsnr), logsnr, zeros(7)
    )
    torch.testing.assert_close(found.x0, x0, rtol=0, atol=1e-11)
    assert found.x0_var is None


def test_a_network_is_told_no_noise_level_that_it_was_not_trained_at():
    told = []

    def network(x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Tensor:
        told.extend(logsnr.tolist())
        return torch.zeros_like(x_t, dtype=torch.bfloat16)

    x_t = torch.ones(4, 1, 1, 1)
    logsnr = torch.tensor([-30.0, -2.0, 3.0, torch.inf])
    trained = torch.tensor([5.0, 0.0, -5.0], dtype=torch.float64)
    x0 = denoiser(network, "v_prediction", trained)(x_t, logsnr, zeros(4)).x0
    assert told == [-5, -2, 3, 5]
    assert x0.dtype == torch.float32
    # The way back to x0 uses the true level: at v = 0 it is alpha * x_t.
    torch.testing.assert_close(x0.flatten(), torch.sigmoid(logsnr).sqrt())


def test_a_learned_variance_is_that_of_the_step_to_the_timestep_before():
    levels = table("linear", 40)
    both = torch.randn(40, 6, 2, 2, generator=generator("both"), dtype=torch.float64)
    x_t = torch.randn(40, 3, 2, 2, generator=generator("x_t"), dtype=torch.float64)
    found = denoiser(lambda *_: both, "epsilon", levels, True)(x_t, levels, zeros(40))
    before = torch.cat([levels[:1] + 1, levels[:-1]])
    assert found.x0_var is not None
    assert found.x0_var.equal(learned_x0_variance(both[:, 3:], levels, before))
    plain = denoiser(lambda *_: both[:, :3], "epsilon", levels)(x_t, levels, zeros(40))
    assert found.x0.equal(plain.x0)


@pytest.mark.parametrize("logsnr", [-30.0, -9.0, 0.123, 9.0, 30.0])
def test_off_its_timesteps_a_learned_variance_is_finite_too(logsnr: float):
    both = torch.zeros(1, 2, 1, 1)
    model = denoiser(lambda *_: both, "v_prediction", table("cosine", 100), True)
    found = model(torch.ones(1, 1, 1, 1), torch.tensor([logsnr], dtype=torch.float64), zeros(1))
    assert found.x0_var is not None
    assert 0 < float(found.x0_var) < math.inf


def test_the_variance_of_a_profile_is_that_of_its_levels_and_between_them_near():
    oracle, levels = GaussianOracle(), torch.tensor(PROFILE_LEVELS, dtype=torch.float64)
    model = with_x0_variance(oracle, levels, x0_variance(oracle.eps_mse(levels)))
    for at, rtol in ((levels, 1e-12), (levels[:-1] + 0.5, 0.04)):
        x_t = torch.randn(len(at), 2, 3, 3, generator=generator("profile"), dtype=torch.float64)
        found = model(x_t, at, zeros(len(at)))
        exact = oracle.with_variance(x_t, at, zeros(len(at)))
        assert found.x0.equal(exact.x0)
        torch.testing.assert_close(found.x0_var, exact.x0_var, rtol=rtol, atol=0)


def test_a_variance_can_be_forgotten():
    x_t, logsnr = noisy(3)
    found = without_x0_variance(GaussianOracle().with_variance)(x_t, logsnr, zeros(3))
    assert found.x0_var is None
    assert found.x0.equal(GaussianOracle()(x_t, logsnr, zeros(3)).x0)


def test_clipped_keeps_the_estimate_where_pixels_live_and_its_variance():
    x0 = torch.tensor([[-3.0, -1.0, 0.25, 1.0, 2.0]])
    found = clipped(lambda *_: Estimate(x0, x0**2))(x0, torch.zeros(1), zeros(1))
    assert found.x0.tolist() == [[-1, -1, 0.25, 1, 1]]
    assert found.x0_var is not None
    assert found.x0_var.equal(x0**2)
