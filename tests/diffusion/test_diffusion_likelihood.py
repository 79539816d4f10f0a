import math
from itertools import product

import pytest
import torch
from gaussian_oracle import GaussianOracle
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from ray_diffusion.diffusion.denoiser import Denoiser, Estimate, denoiser, without_x0_variance
from ray_diffusion.diffusion.gaussian import add_noise, alpha_sigma, per_example
from ray_diffusion.diffusion.likelihood import (
    GREY,
    Bound,
    discrete_vlb,
    discretised_gaussian_log_prob,
    ode_bpd,
    ode_log_density,
    prior_kl,
)
from ray_diffusion.diffusion.random import generator, per_example_noise
from ray_diffusion.diffusion.variance import posterior

LN2 = math.log(2)
ORACLE = GaussianOracle()  # N(0.4, 0.25^2)
ENTROPY = math.log(0.25) + math.log(2 * math.pi * math.e) / 2  # of a pixel, nats
NOISIEST, CLEANEST = -14.0, 9.0
ALL_LEVELS = torch.arange(256, dtype=torch.float64) * GREY - 1


def levels_of(steps: int, noisiest: float = NOISIEST, cleanest: float = CLEANEST) -> Tensor:
    return torch.linspace(noisiest, cleanest, steps + 1, dtype=torch.float64)


def pixels(count: int, *shape: int) -> Tensor:
    draws = torch.randn(count, *shape, generator=generator("pixels"), dtype=torch.float64)
    return 0.4 + 0.25 * draws


def classes(x0: Tensor) -> Tensor:
    return torch.zeros(len(x0), dtype=torch.long)


def vlb(model: Denoiser, x0: Tensor, levels: Tensor) -> Bound:
    return discrete_vlb(model, x0, classes(x0), levels, 0, list(range(len(x0))))


def z_of(draws: Tensor, expected: float) -> float:
    return float((draws.mean() - expected) / (draws.std() / len(draws) ** 0.5))


def grey_levels(values: list[int], weights: list[float]) -> Denoiser:
    """The perfect model of independent pixels that take some grey levels with some weights."""
    levels = torch.tensor(values, dtype=torch.float64) * GREY - 1

    def estimate(x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Estimate:
        alpha, sigma = (per_example(value, x_t)[..., None] for value in alpha_sigma(logsnr))
        squares = ((x_t[..., None] - alpha * levels) / sigma).square()
        shares = torch.softmax(torch.tensor(weights, dtype=torch.float64).log() - squares / 2, -1)
        x0 = (shares * levels).sum(-1)
        return Estimate(x0, (shares * (levels - x0[..., None]).square()).sum(-1))

    return estimate


def test_prior_and_integrated_error_and_decoder_are_entropy_and_blur():
    logsnr = torch.linspace(NOISIEST, CLEANEST, 20_001, dtype=torch.float64)
    root_mean_square = torch.full((1, 1), (0.4**2 + 0.25**2) ** 0.5, dtype=torch.float64)
    prior = prior_kl(root_mean_square, logsnr[:1])
    diffusion = torch.trapezoid(ORACLE.eps_mse(logsnr), logsnr) / 2
    decoder = (math.log(2 * math.pi * math.e) - CLEANEST) / 2  # N(x_t / alpha, exp(-logsnr))
    total = float(prior + diffusion + decoder)
    assert total == pytest.approx(ENTROPY + math.log1p(math.exp(-CLEANEST) / 0.25**2) / 2, abs=1e-6)
    assert total == pytest.approx(0.033631, abs=1e-6)


def test_the_prior_is_the_divergence_from_pure_noise():
    x0, logsnr = pixels(3, 1, 2, 2), torch.tensor([-7.0, -1.0, 3.0], dtype=torch.float64)
    alpha, sigma = (per_example(value, x0) for value in alpha_sigma(logsnr))
    wanted = kl_divergence(Normal(alpha * x0, sigma), Normal(0.0, 1.0)).flatten(1).mean(1)
    torch.testing.assert_close(prior_kl(x0, logsnr), wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("known", [None, 0.0, 0.03])
def test_steps_cost_the_divergence_from_the_posterior_and_pixels_their_log_probability(
    known: float | None,
):
    x0, levels = pixels(4, 1, 3, 3), torch.tensor([-1.0, 1.5], dtype=torch.float64)
    x0_hat = torch.full_like(x0, 0.3)
    x0_var = None if known is None else torch.full((4, 1, 1, 1), known)
    at = posterior(*levels[:, None])
    noise = per_example_noise("vlb 0", 0, list(range(4)), (1, 3, 3), "cpu")
    x_t = add_noise(x0, noise, levels[:1].expand(4))
    forward = Normal(at.x0_weight * x0 + at.x_t_weight * x_t, at.beta_tilde.sqrt())
    variance = at.beta_tilde + at.x0_weight**2 * (known or 0.0)
    reverse = Normal(at.x0_weight * x0_hat + at.x_t_weight * x_t, variance.sqrt())
    wanted = kl_divergence(forward, reverse).flatten(1).mean(1)
    bound = vlb(lambda *_: Estimate(x0_hat, x0_var), x0, levels)
    torch.testing.assert_close(bound.diffusion * LN2, wanted, rtol=1e-6, atol=0)
    sd = alpha_sigma(levels[-1])[1] if known is None else torch.tensor(known**0.5)
    log_prob = discretised_gaussian_log_prob(x0, x0_hat, sd).flatten(1).mean(1)
    torch.testing.assert_close(bound.decoder * LN2, -log_prob, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("steps", "nats"), [(8, 13.983), (24, 4.8231), (100, 3.4375), (1000, 3.1450)]
)
def test_the_diffusion_part_of_a_perfect_model_falls_to_its_limit(steps: int, nats: float):
    levels = levels_of(steps)
    wanted = float((torch.expm1(levels.diff()) * ORACLE.eps_mse(levels[:-1])).sum() / 2)
    assert wanted == pytest.approx(nats, rel=5e-5)
    limit = float(torch.log1p(torch.exp(levels[[0, -1]]) * 0.25**2).diff() / 2)
    assert limit == pytest.approx(3.1147, abs=1e-4)
    assert limit < wanted
    # |z| < 4 over 12 examples of 400 pixels
    assert abs(z_of(vlb(ORACLE, pixels(12, 400), levels).diffusion * LN2, wanted)) < 4


@pytest.mark.parametrize("steps", [1, 3, 24])
def test_with_the_right_variance_long_steps_cost_nothing(steps: int):
    bound = vlb(ORACLE.with_variance, pixels(64, 400), levels_of(steps))
    wanted = math.log1p(math.exp(CLEANEST) * 0.25**2) / 2  # mutual information of x0 and x_t
    assert abs(z_of((bound.prior + bound.diffusion) * LN2, wanted)) < 4


@pytest.mark.parametrize("steps", [1, 8, 24, 50])
def test_knowing_the_variance_of_clean_data_tightens_the_bound_of_few_steps(steps: int):
    x0 = ((pixels(8, 400) + 1) / GREY).round().clamp(0, 255) * GREY - 1
    blind, seeing = (vlb(model, x0, levels_of(steps)) for model in (ORACLE, ORACLE.with_variance))
    assert (seeing.total < blind.total).all()


@settings(max_examples=20)
@given(
    st.dictionaries(st.integers(0, 255), st.floats(0.1, 1), min_size=1, max_size=4),
    st.integers(1, 30),
    st.floats(-12, -6),
    st.floats(4, 14),
    st.booleans(),
)
def test_no_bound_of_a_perfect_model_is_below_the_entropy_of_pixels(
    pmf: dict[int, float], steps: int, noisiest: float, cleanest: float, blind: bool
):
    values, weights = list(pmf), torch.tensor([*pmf.values()], dtype=torch.float64)
    weights = weights / weights.sum()
    model = grey_levels(values, weights.tolist())
    chosen = torch.multinomial(weights, 3200, replacement=True, generator=generator("values"))
    x0 = torch.tensor(values).double()[chosen].view(32, 100) * GREY - 1
    bound = vlb(
        without_x0_variance(model) if blind else model, x0, levels_of(steps, noisiest, cleanest)
    )
    for part in bound:
        assert (part > -1e-9).all()
    excess = bound.total + weights[chosen].log2().view(32, 100).mean(1)  # over the ideal code
    assert excess.mean() > -4 * excess.std() / 32**0.5 - 1e-9


def test_the_bound_of_a_coin_is_almost_a_bit():
    x0, coin = 1 - 2.0 * (pixels(32, 400) < 0.4), grey_levels([0, 255], [0.5, 0.5])
    bound = vlb(coin, x0, levels_of(140, -12, 16))
    assert float(bound.total.mean()) == pytest.approx(1, abs=0.03)  # standard error 0.006
    assert bound.decoder.max() < 1e-6
    blind = vlb(without_x0_variance(coin), x0, levels_of(140, -12, 16)).diffusion.mean()
    assert float(blind) == pytest.approx(1.1, abs=0.03)  # each step costs 1 + its length / 2


def test_the_bound_of_an_image_does_not_depend_on_its_batch():
    images, seed = pixels(3, 1, 4, 4).float(), 7
    labels, levels = torch.tensor([0, 1, 0]), levels_of(5)
    model = GaussianOracle(means=(0.4, -0.2))
    together = discrete_vlb(model, images, labels, levels, seed, [5, 0, 9])
    flow = ode_bpd(model, images, labels, levels, seed, [5, 0, 9], num_probes=2)
    for row, index in enumerate([5, 0, 9]):
        one = images[row : row + 1], labels[row : row + 1], levels, seed, [index]
        for part, alone in zip(together, discrete_vlb(model, *one), strict=True):
            assert part[row].equal(alone[0])
        assert flow[row].equal(ode_bpd(model, *one, num_probes=2)[0])


@pytest.mark.parametrize("levels", [[1, 0], [0, 0], [0, math.inf], [-math.inf, 0], [math.nan, 0]])
def test_levels_that_do_not_increase_are_refused(levels: list[float]):
    x0 = pixels(1, 2)
    with pytest.raises(ValueError, match="finite and increase"):
        vlb(ORACLE, x0, torch.tensor(levels))
    with pytest.raises(ValueError, match="finite and increase"):
        ode_log_density(ORACLE, x0, classes(x0), torch.tensor(levels), torch.ones(1, 1, 2))


@given(st.floats(-3, 3), st.floats(-12, 3).map(math.exp))
def test_the_probabilities_of_all_grey_levels_sum_to_one(mean: float, sd: float):
    log_probs = discretised_gaussian_log_prob(ALL_LEVELS, torch.tensor(mean), torch.tensor(sd))
    assert torch.isfinite(log_probs).all()
    assert float(log_probs.exp().sum()) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("level", [0, 100, 255])
def test_a_grey_level_has_what_the_gaussian_has_within_half_a_level(level: int):
    normal = Normal(*torch.tensor([-0.2, 0.4], dtype=torch.float64))
    below, above = (normal.cdf(ALL_LEVELS[level] + half * GREY) for half in (-0.5, 0.5))
    below, above = (0.0 if level == 0 else below), (1.0 if level == 255 else above)
    found = discretised_gaussian_log_prob(ALL_LEVELS[level], normal.loc, normal.scale).exp()
    assert float(found) == pytest.approx(float(above - below), rel=1e-9)


def test_far_tails_are_alike_on_both_sides_and_follow_the_density():
    left, right = (
        discretised_gaussian_log_prob(ALL_LEVELS, torch.tensor(mean), torch.tensor(1e-3))
        for mean in (-1.0, 1.0)
    )
    torch.testing.assert_close(left, right.flip(0), rtol=1e-12, atol=0)
    z = torch.tensor(99.5 * GREY / 1e-3, dtype=torch.float64)  # the near edge of level 100
    assert float(left[100]) == pytest.approx(float(-(z**2) / 2 - (z * (2 * math.pi) ** 0.5).log()))


def flow(x0: Tensor, levels: Tensor, oracle: Denoiser = ORACLE) -> Tensor:
    """The density by one probe, with which the trace of a diagonal matrix is exact."""
    return ode_log_density(oracle, x0, classes(x0), levels, torch.ones(1, *x0.shape).to(x0))


def test_the_flow_has_the_density_of_the_data():
    x0 = pixels(500, 1)
    exact = Normal(0.4, 0.25).log_prob(x0[:, 0])
    for count, most in {50: 8.1e-3, 100: 2.8e-3, 200: 1.5e-3}.items():
        error = (flow(x0, levels_of(count - 1)) - exact).abs().mean()
        assert error < most  # the last is due to the blur of the cleanest level, sd 0.011
    blurred = Normal(0.4, (0.25**2 + math.exp(-14)) ** 0.5).log_prob(x0[:, 0])
    found = flow(x0, levels_of(300, cleanest=14))
    torch.testing.assert_close(found, blurred, rtol=0, atol=4e-3)


@pytest.mark.parametrize(
    ("mean", "sd", "noisiest", "cleanest"),
    [(0.4, 0.25, -10, 9), (-0.8, 0.05, -8, 6), (0, 1, -12, 8)],
)
def test_the_flow_is_followed_with_second_order(
    mean: float, sd: float, noisiest: float, cleanest: float
):
    oracle = GaussianOracle((mean,), sd)
    x0 = mean + sd * torch.linspace(-2.5, 2.5, 11, dtype=torch.float64)[:, None]
    ends = torch.tensor([noisiest, cleanest], dtype=torch.float64)
    alpha = alpha_sigma(ends)[0]
    x_T = oracle.ode_map(alpha[1] * x0, ends[1], ends[0])[:, 0]  # linear in x0
    exact = Normal(0.0, 1.0).log_prob(x_T) + ((x_T[-1] - x_T[0]) / (x0[-1] - x0[0])).log()
    coarse, fine = (
        (flow(x0, levels_of(steps, noisiest, cleanest), oracle) - exact).abs().max()
        for steps in (80, 160)
    )
    assert 3.8 < float(coarse / fine) < 4.2


def test_probes_find_the_trace_of_correlated_pixels():
    root = torch.randn(3, 3, generator=generator("root"), dtype=torch.float64) / 4
    covariance = root @ root.T + 0.02 * torch.eye(3)
    exact = MultivariateNormal(torch.zeros(3).double(), covariance)
    x0 = pixels(4, 3) - 0.4
    signs = torch.tensor(list(product([-1.0, 1.0], repeat=3)), dtype=torch.float64)
    units = 3**0.5 * torch.eye(3, dtype=torch.float64)

    def model(x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Estimate:
        alpha, sigma = alpha_sigma(logsnr[0])
        noisy = alpha**2 * covariance + sigma**2 * torch.eye(3)
        return Estimate(alpha * x_t @ torch.linalg.inv(noisy) @ covariance)

    for vectors in (signs, units):  # both average to the exact trace
        probes = vectors[:, None].expand(-1, 4, -1)
        found = ode_log_density(model, x0, classes(x0), levels_of(150, cleanest=14), probes)
        torch.testing.assert_close(found, exact.log_prob(x0), rtol=0, atol=5e-3)
    x0 = pixels(256, 3) - 0.4
    bits = ode_bpd(model, x0, classes(x0), levels_of(60, cleanest=14), 0, list(range(256)))
    code = -(exact.log_prob(x0) / 3 + math.log(GREY)) / LN2
    assert abs(z_of(bits - code, 0)) < 4  # one random probe is right on average


def test_the_flow_sees_pixels_spread_over_their_grey_level():
    x0, sd = torch.full((16, 400), 100 * GREY - 1, dtype=torch.float64), 0.3 * GREY
    oracle = GaussianOracle((float(x0[0, 0]),), sd)
    bits = ode_bpd(oracle, x0, classes(x0), levels_of(300, -12, 20), 0, list(range(16)))
    square = GREY**2 / 12  # of a uniform draw of that width
    nats = square / sd**2 / 2 + math.log(sd * math.sqrt(2 * math.pi) / GREY)
    assert abs(z_of(bits, nats / LN2)) < 4
    assert bits.std() < 0.1  # without the spread it is 0.54 bits less


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("callers_gradient", [True, False])
def test_the_flow_differentiates_by_its_input_alone(frozen: bool, callers_gradient: bool):
    conv = nn.Conv2d(1, 1, 3, padding=1).requires_grad_(not frozen)
    model = denoiser(lambda x_t, *_: conv(x_t).tanh(), "sample", levels_of(10).flip(0))
    x0 = pixels(2, 1, 4, 4).float()
    with torch.set_grad_enabled(callers_gradient):
        bits = ode_bpd(model, x0, classes(x0), levels_of(10), 0, [0, 1])
        bound = discrete_vlb(model, x0, classes(x0), levels_of(10), 0, [0, 1])
    assert torch.isfinite(bits).all()
    assert not bits.requires_grad
    assert not bound.total.requires_grad
    assert all(weight.grad is None for weight in conv.parameters())
