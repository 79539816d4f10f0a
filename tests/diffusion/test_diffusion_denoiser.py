import pytest
import torch
from gaussian_oracle import GaussianOracle
from torch import Tensor

from ray_diffusion.diffusion.denoiser import Denoiser, clipped, denoiser, guided
from ray_diffusion.diffusion.gaussian import add_noise
from ray_diffusion.diffusion.parameterization import PARAMETERIZATIONS
from ray_diffusion.diffusion.random import generator
from ray_diffusion.diffusion.sampling import sample, trailing_grid
from ray_diffusion.diffusion.schedule import table

CLASS, NULL = 0, 1
TWO = GaussianOracle(means=(0.5, -0.3))
GUIDED_MEAN = -0.3 + 2.5 * (0.5 - -0.3)  # 1.7, by the definition of guidance at scale 2.5


class Counted:
    """A denoiser that keeps the size of each batch it was asked for."""

    def __init__(self, inner: Denoiser) -> None:
        self.inner, self.batches = inner, list[int]()

    def __call__(self, x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Tensor:
        self.batches.append(len(x_t))
        return self.inner(x_t, logsnr, condition)


def noisy(batch: int) -> tuple[Tensor, Tensor]:
    x_t = torch.randn(batch, 1, 4, 4, generator=generator("denoiser test"), dtype=torch.float64)
    return x_t, torch.linspace(-9, 9, batch, dtype=torch.float64)


def test_guidance_of_two_gaussians_is_the_denoiser_of_a_third():
    x_t, logsnr = noisy(19)
    x0 = guided(TWO, torch.full((19,), 2.5), NULL)(x_t, logsnr, torch.full((19,), CLASS))
    expected = GaussianOracle(means=(GUIDED_MEAN,))(x_t, logsnr, torch.zeros(19).long())
    torch.testing.assert_close(x0, expected, rtol=0, atol=1e-12)


def test_guided_samples_have_the_closed_form_mean():
    grid = trailing_grid(table("cosine", 1000), 100)
    scale, condition = torch.tensor([2.5]), torch.tensor([CLASS])
    x = sample(guided(TWO, scale, NULL), condition, (1, 150, 150), grid, "ddpm", 0, [0]).double()
    mean, sd = GaussianOracle(means=(GUIDED_MEAN,)).ancestral_chain(grid)
    assert mean == pytest.approx(1.7, abs=0.02)  # what 100 steps leave of the start at 0
    assert abs(x.mean() - mean) / (sd / x.numel() ** 0.5) < 4


def test_scale_1_is_no_guidance_and_costs_none():
    inner = Counted(TWO)
    x_t, logsnr = noisy(3)
    condition = torch.full((3,), CLASS)
    x0 = guided(inner, torch.ones(3), NULL)(x_t, logsnr, condition)
    assert inner.batches == [3]
    assert x0.equal(TWO(x_t, logsnr, condition))


def test_both_halves_of_guidance_are_one_call():
    inner = Counted(TWO)
    x_t, logsnr = noisy(3)
    guided(inner, torch.full((3,), 2.0), NULL)(x_t, logsnr, torch.full((3,), CLASS))
    assert inner.batches == [6]


def test_each_image_has_its_own_scale():
    x_t, logsnr = noisy(3)
    condition = torch.full((3,), CLASS)
    x0 = guided(TWO, torch.tensor([0.0, 1.0, 2.5]), NULL)(x_t, logsnr, condition)
    for i, mean in enumerate([-0.3, 0.5, GUIDED_MEAN]):
        alone = GaussianOracle(means=(mean,))(x_t, logsnr, torch.zeros(3).long())
        torch.testing.assert_close(x0[i], alone[i], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_a_network_that_knows_the_answer_is_a_perfect_denoiser(name: str):
    noise, logsnr = noisy(7)
    x0 = torch.linspace(-1, 1, noise.numel(), dtype=torch.float64).view_as(noise)
    prediction = PARAMETERIZATIONS[name].target(x0, noise, logsnr)
    found = denoiser(lambda *_: prediction, name, (-9, 9))(
        add_noise(x0, noise, logsnr), logsnr, torch.zeros(7).long()
    )
    torch.testing.assert_close(found, x0, rtol=0, atol=1e-11)


def test_a_network_is_told_no_noise_level_that_it_was_not_trained_at():
    told = []

    def network(x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Tensor:
        told.extend(logsnr.tolist())
        return torch.zeros_like(x_t, dtype=torch.bfloat16)

    x_t = torch.ones(4, 1, 1, 1)
    logsnr = torch.tensor([-30.0, -2.0, 3.0, torch.inf])
    x0 = denoiser(network, "v_prediction", (-5.0, 5.0))(x_t, logsnr, torch.zeros(4).long())
    assert told == [-5, -2, 3, 5]
    assert x0.dtype == torch.float32
    # The way back to x0 uses the true level: at v = 0 it is alpha * x_t.
    torch.testing.assert_close(x0.flatten(), torch.sigmoid(logsnr).sqrt())


def test_clipped_keeps_the_estimate_where_pixels_live():
    x0 = torch.tensor([[-3.0, -1.0, 0.25, 1.0, 2.0]])
    found = clipped(lambda *_: x0)(x0, torch.zeros(1), torch.zeros(1).long())
    assert found.tolist() == [[-1, -1, 0.25, 1, 1]]
