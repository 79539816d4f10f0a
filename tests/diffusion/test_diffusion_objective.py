import pytest
import torch
from tables import table
from torch import Tensor

from ray_diffusion.diffusion.gaussian import add_noise
from ray_diffusion.diffusion.levels import Levels, levels_at
from ray_diffusion.diffusion.objective import (
    HYBRID,
    LOSSES,
    Network,
    Objective,
    denoising_loss,
    drop_condition,
)
from ray_diffusion.diffusion.parameterization import (
    PARAMETERIZATIONS,
    network_input,
    target,
    to_x0,
)
from ray_diffusion.diffusion.random import generator
from ray_diffusion.diffusion.variance import step_kl
from ray_diffusion.diffusion.weighting import WEIGHTINGS, weight

TABLE = table("cosine", 100)
LEVELS = levels_at("uniform", TABLE, torch.tensor([0, 20, 60, 99]))


def draws() -> tuple[Tensor, Tensor]:
    """Clean data in [-1, 1] and noise, shape ``(4, 2, 3, 3)``."""
    draw = generator("objective test")
    x0 = torch.rand(4, 2, 3, 3, generator=draw) * 2 - 1
    return x0, torch.randn(x0.shape, generator=draw)


X0, NOISE = draws()


def loss(network: Network, objective: Objective, levels: Levels = LEVELS) -> Tensor:
    return denoising_loss(network, X0, torch.zeros(4).long(), levels, NOISE, objective)


def wrong_by(error: float, name: str) -> Network:
    return lambda *_: target(name, X0, NOISE, LEVELS.logsnr) + error


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_a_perfect_network_costs_nothing_and_a_silent_one_the_power_of_its_target(name: str):
    assert loss(wrong_by(0.0, name), Objective(name)).tolist() == [0, 0, 0, 0]
    power = target(name, X0, NOISE, LEVELS.logsnr).square().mean((1, 2, 3))
    silent = loss(lambda *_: torch.zeros_like(X0), Objective(name))
    torch.testing.assert_close(silent, power)
    half = loss(lambda *_: torch.zeros_like(X0, dtype=torch.bfloat16), Objective(name))
    assert half.dtype == torch.float32


@pytest.mark.parametrize("error", [-3.0, -0.2, 0.5, 2.0])
def test_losses_have_their_closed_forms(error: float):
    size = abs(error)
    closed = {"mse": error**2, "l1": size, "huber": error**2 / 2 if size < 1 else size - 0.5}
    assert set(closed) == set(LOSSES)
    for name, expected in closed.items():
        found = loss(wrong_by(error, "v_prediction"), Objective("v_prediction", loss=name))
        assert found.tolist() == pytest.approx([expected] * 4, rel=1e-5)


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_without_a_weighting_the_loss_is_the_simple_loss_to_the_bit(name: str):
    prediction = torch.randn(X0.shape, generator=generator("any prediction"))
    error = prediction - target(name, X0, NOISE, LEVELS.logsnr)
    simple = error.square().flatten(1).mean(1)
    assert loss(lambda *_: prediction, Objective(name)).equal(simple)


@pytest.mark.parametrize("loss_name", LOSSES)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_weighting_multiplies_the_loss(weighting: str, loss_name: str):
    network, name = wrong_by(0.5, "epsilon"), "epsilon"
    plain = loss(network, Objective(name, loss_name))
    weights = weight(weighting, name, LEVELS.logsnr, LEVELS.density, 3.0)
    assert loss(network, Objective(name, loss_name, weighting, 3.0)).equal(weights * plain)


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_the_network_sees_noisy_data_its_level_and_its_class(name: str):
    seen = []

    def network(*inputs: Tensor) -> Tensor:
        seen.extend(inputs)
        return X0

    loss(network, Objective(name))
    shown, logsnr, condition = seen
    assert shown.equal(network_input(name, add_noise(X0, NOISE, LEVELS.logsnr), LEVELS.logsnr))
    assert logsnr.equal(LEVELS.logsnr)
    assert condition.tolist() == [0, 0, 0, 0]


def hybrid(steps: int | None, output: Tensor) -> Tensor:
    """The loss of a network whose output, shape ``(4, 4, 3, 3)``, is given."""
    shown = output if steps else output[:, :2]
    return loss(lambda *_: shown, Objective("epsilon", steps=steps))


def output() -> Tensor:
    return torch.randn(4, 4, 3, 3, generator=generator("hybrid")).requires_grad_()


def test_the_hybrid_loss_is_the_simple_loss_and_a_little_of_the_bound():
    both = output()
    x_t = add_noise(X0, NOISE, LEVELS.logsnr)
    x0_hat = to_x0("epsilon", both[:, :2], x_t, LEVELS.logsnr)
    bound = step_kl(X0[1:], x0_hat[1:], both[1:, 2:], LEVELS.logsnr[1:], LEVELS.cleaner[1:])
    expected = hybrid(None, both)
    assert hybrid(100, both)[0] == expected[0]  # the step into clean data has no variance
    torch.testing.assert_close(hybrid(100, both)[1:], expected[1:] + HYBRID * 100 * bound)


def test_from_the_bound_the_variance_learns_and_the_mean_does_not():
    with_bound, without = output(), output()
    hybrid(100, with_bound).sum().backward()
    hybrid(None, without).sum().backward()
    assert with_bound.grad is not None
    assert without.grad is not None
    assert with_bound.grad[:, :2].equal(without.grad[:, :2])
    assert with_bound.grad.isfinite().all()
    assert with_bound.grad[0, 2:].eq(0).all()
    assert with_bound.grad[1:, 2:].ne(0).all()


def test_conditions_are_dropped_at_their_rate_each_on_its_own():
    n, probability = 20_000, 0.3
    labels = torch.arange(n) % 10
    dropped = drop_condition(labels, 10, probability, torch.rand(n, generator=generator("drop")))
    assert ((dropped == labels) | (dropped == 10)).all()
    for label in range(10):
        share = (dropped[labels == label] == 10).double().mean()
        assert abs(share - probability) < 4 * (probability * (1 - probability) / (n / 10)) ** 0.5


def test_nothing_is_dropped_at_probability_zero():
    labels = torch.arange(1000) % 10
    assert drop_condition(labels, 10, 0.0, torch.rand(1000)).equal(labels)
