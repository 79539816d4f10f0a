import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ray_diffusion.diffusion.gaussian import add_noise, alpha_sigma, per_example
from ray_diffusion.diffusion.random import generator


@given(st.floats(-1000, 1000))
def test_signal_and_noise_share_the_variance(logsnr: float):
    alpha, sigma = alpha_sigma(torch.tensor([logsnr]))
    assert alpha.dtype == torch.float64
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(1, dtype=torch.float64))


@given(st.floats(-300, 300))
def test_logsnr_is_the_logarithm_of_signal_to_noise(logsnr: float):
    alpha, sigma = alpha_sigma(torch.tensor([logsnr], dtype=torch.float64))
    assert float((alpha / sigma).log()) == pytest.approx(logsnr / 2, abs=1e-12)


def test_noise_levels_may_be_infinite():
    alpha, sigma = alpha_sigma(torch.tensor([-torch.inf, torch.inf]))
    assert alpha.tolist() == [0, 1]
    assert sigma.tolist() == [1, 0]


@pytest.mark.parametrize("logsnr", [-10.0, -2.0, 0.0, 2.0, 10.0])
def test_noisy_data_of_unit_variance_keep_it(logsnr: float):
    draw, n = generator("unit variance"), 100_000
    x0, noise = (torch.randn(1, n, generator=draw) for _ in range(2))
    variance = add_noise(x0, noise, torch.tensor([logsnr])).var()
    assert abs(variance - 1) < 4 * (2 / n) ** 0.5  # the standard error of a variance


def test_each_example_has_its_own_noise_level():
    draw = generator("own level")
    x0, noise = (torch.randn(3, 2, 4, 4, generator=draw) for _ in range(2))
    logsnr = torch.tensor([-5.0, 0.0, 5.0])
    together = add_noise(x0, noise, logsnr)
    for i in range(3):
        assert together[i].equal(add_noise(x0[i : i + 1], noise[i : i + 1], logsnr[i : i + 1])[0])


def test_per_example_takes_dtype_and_rank_of_the_batch():
    view = per_example(torch.ones(2, dtype=torch.float64), torch.zeros(2, 3, 4))
    assert view.shape == (2, 1, 1)
    assert view.dtype == torch.float32
