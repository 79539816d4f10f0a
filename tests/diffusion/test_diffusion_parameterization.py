import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ray_diffusion.diffusion.gaussian import add_noise, alpha_sigma, per_example
from ray_diffusion.diffusion.objective import denoising_loss, drop_condition
from ray_diffusion.diffusion.parameterization import PARAMETERIZATIONS
from ray_diffusion.diffusion.random import generator
from ray_diffusion.diffusion.schedule import SCHEDULES, table


def draws(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Clean data in [-1, 1] and noise, float64, shape ``(batch, 3, 4, 4)``."""
    draw = generator("parameterization test")
    x0 = torch.rand(batch, 3, 4, 4, generator=draw, dtype=torch.float64) * 2 - 1
    return x0, torch.randn(x0.shape, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_a_perfect_prediction_leads_back_to_clean_data(name: str, schedule: str):
    logsnr = table(schedule, 1000)[::37]
    x0, noise = draws(len(logsnr))
    target, to_x0 = PARAMETERIZATIONS[name]
    found = to_x0(target(x0, noise, logsnr), add_noise(x0, noise, logsnr), logsnr)
    # float64 keeps 1e-16; epsilon divides by alpha, 4e-5 at logsnr -20.
    torch.testing.assert_close(found, x0, rtol=0, atol=1e-11)


@given(st.floats(-1000, 1000))
def test_signal_and_noise_share_the_variance(logsnr: float):
    alpha, sigma = alpha_sigma(torch.tensor([logsnr]))
    assert alpha.dtype == torch.float64
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(1, dtype=torch.float64))


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
    x0, noise = draws(3)
    logsnr = torch.tensor([-5.0, 0.0, 5.0])
    together = add_noise(x0, noise, logsnr)
    for i in range(3):
        assert together[i].equal(add_noise(x0[i : i + 1], noise[i : i + 1], logsnr[i : i + 1])[0])


def test_per_example_takes_dtype_and_rank_of_the_batch():
    view = per_example(torch.ones(2, dtype=torch.float64), torch.zeros(2, 3, 4))
    assert view.shape == (2, 1, 1)
    assert view.dtype == torch.float32


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_the_loss_of_a_perfect_network_is_zero_and_of_a_silent_one_the_power_of_its_target(
    name: str,
):
    x0, noise = (value.float() for value in draws(4))
    logsnr, condition = torch.tensor([-8.0, -1.0, 1.0, 8.0]), torch.zeros(4, dtype=torch.int64)
    target = PARAMETERIZATIONS[name].target(x0, noise, logsnr)

    def loss(prediction: torch.Tensor) -> torch.Tensor:
        return denoising_loss(lambda *_: prediction, x0, condition, logsnr, noise, name)

    assert loss(target).tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(loss(torch.zeros_like(x0)), (target**2).mean((1, 2, 3)))
    assert loss(torch.zeros_like(x0, dtype=torch.bfloat16)).dtype == torch.float32


def test_conditions_are_dropped_at_their_rate_each_on_its_own():
    n, probability = 20_000, 0.3
    labels = torch.arange(n) % 10
    dropped = drop_condition(labels, 10, probability, generator("drop"))
    assert ((dropped == labels) | (dropped == 10)).all()
    for label in range(10):
        share = (dropped[labels == label] == 10).double().mean()
        assert abs(share - probability) < 4 * (probability * (1 - probability) / (n / 10)) ** 0.5


def test_nothing_is_dropped_at_probability_zero():
    labels = torch.arange(1000) % 10
    assert drop_condition(labels, 10, 0.0, generator("drop")).equal(labels)
