import pytest
import torch
from gaussian_oracle import GaussianOracle
from hypothesis import given
from hypothesis import strategies as st
from tables import table
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ray_diffusion.diffusion.interpolation import interpolated
from ray_diffusion.diffusion.random import generator
from ray_diffusion.diffusion.schedule import from_betas
from ray_diffusion.diffusion.solvers import Visit, ddpm_step, nowhere
from ray_diffusion.diffusion.variance import (
    learned_log_variance,
    learned_x0_variance,
    posterior,
    step_kl,
)

ORACLE = GaussianOracle()


def steps(name: str, T: int) -> tuple[Tensor, Tensor]:
    """The levels of all timesteps but the first, and those of the timesteps before."""
    levels = table(name, T)
    return levels[1:], levels[:-1]


def raw_of(count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """A network's second half in [-1, 1], shape ``(count, 3)``."""
    return torch.rand(count, 3, generator=generator("raw"), dtype=dtype) * 2 - 1


def test_the_posterior_is_the_product_of_bayes_rule():
    # q(x_s | x_t, x0) is q(x_t | x_s) q(x_s | x0): two Gaussians in x_s, precisions added.
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = (1 - betas).cumprod(0)
    beta, before = betas[1:], alpha_bar[:-1]
    precision = (1 - beta) / beta + 1 / (1 - before)
    levels = from_betas(betas)
    at = posterior(levels[1:], levels[:-1])
    for found, product in (
        (at.beta, beta),
        (at.beta_tilde, 1 / precision),
        (at.x0_weight, before.sqrt() / (1 - before) / precision),
        (at.x_t_weight, (1 - beta).sqrt() / beta / precision),
    ):
        torch.testing.assert_close(found, product, rtol=6e-13, atol=0)


@given(st.floats(-25, 10), st.floats(0.01, 20))
def test_it_is_so_for_steps_of_any_length(logsnr_t: float, rise: float):
    t = torch.tensor([logsnr_t], dtype=torch.float64)
    ab_t, ab_s = torch.sigmoid(t), torch.sigmoid(t + rise)
    beta = 1 - ab_t / ab_s
    precision = (1 - beta) / beta + 1 / torch.sigmoid(-t - rise)
    # What is left is the cancellation in this beta.
    torch.testing.assert_close(posterior(t, t + rise).beta_tilde, 1 / precision, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["linear", "cosine", "sub_vp"])
def test_the_learned_variance_lies_between_its_bounds_and_reaches_them(name: str):
    t, s = steps(name, 1000)
    at = posterior(t, s)
    lower, upper = at.beta_tilde.log()[:, None], at.beta.log()[:, None]
    learned = learned_log_variance(raw_of(999), t, s)
    assert ((learned >= lower) & (learned <= upper)).all()
    for end, bound in ((-1.0, lower), (1.0, upper)):
        found = learned_log_variance(torch.full((999, 1), end, dtype=torch.float64), t, s)
        torch.testing.assert_close(found, bound, rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_bound_of_a_step_is_the_divergence_of_its_two_gaussians(name: str):
    t, s = steps(name, 50)
    draw = generator("bound")
    x0, x0_hat, x_t = (torch.randn(49, 3, generator=draw, dtype=torch.float64) for _ in range(3))
    at, raw = posterior(t, s), raw_of(49)
    c0, ct, tilde = at.x0_weight[:, None], at.x_t_weight[:, None], at.beta_tilde[:, None]
    q = Normal(c0 * x0 + ct * x_t, tilde.sqrt())
    p = Normal(c0 * x0_hat + ct * x_t, (learned_log_variance(raw, t, s) / 2).exp())
    # step_kl takes what the network said as float32.
    torch.testing.assert_close(
        step_kl(x0, x0_hat, raw, t, s), kl_divergence(q, p).mean(1), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(("T", "nats"), [(8, 13.98), (24, 4.82), (100, 3.44), (1000, 3.145)])
def test_the_bound_of_a_chain_falls_with_its_steps_to_the_continuous_one(T: int, nats: float):
    # 3.115 nats are the integral from -14 to 9. With beta_tilde a step's bound is quadratic in
    # the error of x0, so an error of one standard deviation stands for its expectation.
    levels = torch.linspace(-14, 9, T + 1, dtype=torch.float64)
    error = ORACLE.x0_var(levels[:-1]).sqrt()[:, None]
    raw = torch.full_like(error, -1)
    found = step_kl(error, torch.zeros_like(error), raw, levels[:-1], levels[1:])
    assert float(found.sum()) == pytest.approx(nats, abs=0.005)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", ["linear", "cosine", "sub_vp"])
def test_an_ancestral_step_of_one_timestep_has_the_learned_variance(
    name: str, dtype: torch.dtype, rtol: float
):
    t, s = steps(name, 1000)
    raw, zero = raw_of(999, dtype), torch.zeros(999, 3, dtype=dtype)
    now = Visit(zero, t, zero, learned_x0_variance(raw, t, s))
    variance = ddpm_step(now, nowhere(zero), s, torch.ones_like(zero)) ** 2
    torch.testing.assert_close(variance, learned_log_variance(raw, t, s).exp(), rtol=rtol, atol=0)


@pytest.mark.parametrize("name", ["linear", "cosine", "sub_vp"])
def test_what_a_learned_variance_says_of_clean_data_survives_float32(name: str):
    t, s = steps(name, 1000)
    raw = raw_of(999, torch.float32)
    found, exact = (learned_x0_variance(value, t, s) for value in (raw, raw.double()))
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=0)


def test_a_variance_below_beta_tilde_says_that_clean_data_are_known():
    t, s = steps("cosine", 10)
    raw = torch.full((9, 1), -1.5)
    assert learned_x0_variance(raw, t, s).eq(0).all()


def test_descent_on_the_bound_finds_the_analytic_variance():
    t, s = steps("cosine", 24)
    raw = torch.zeros(23, 1, requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=0.05)
    error = ORACLE.x0_var(t).sqrt()[:, None].float()  # one standard deviation of x0 given x_t
    for _ in range(300):
        optimizer.zero_grad()
        # Steps differ in size of the gradient; Adam divides it out.
        step_kl(error, torch.zeros_like(error), raw, t, s).sum().backward()
        optimizer.step()
    at = posterior(t, s)
    analytic = at.beta_tilde + at.x0_weight**2 * ORACLE.x0_var(t)
    learned = learned_log_variance(raw.detach().double(), t, s).exp()[:, 0]
    torch.testing.assert_close(learned, analytic, rtol=1e-3, atol=0)
    assert ((analytic - at.beta_tilde) / at.beta_tilde).max() > 1  # there was something to learn


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=5))
def test_interpolation_is_exact_on_lines_and_constant_beyond(levels: list[float]):
    known = torch.tensor([-3.0, -1.0, 4.0], dtype=torch.float64)
    where = torch.tensor(levels, dtype=torch.float64)
    found = interpolated(where, known, 2 * known + 1)
    torch.testing.assert_close(found, 2 * where.clamp(-3, 4) + 1, rtol=0, atol=1e-12)
