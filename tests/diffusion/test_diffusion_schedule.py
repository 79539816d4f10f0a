import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import table
from torch import Tensor

from ray_diffusion.diffusion.gaussian import add_noise
from ray_diffusion.diffusion.random import generator
from ray_diffusion.diffusion.schedule import (
    MAX_BETA,
    PURE_NOISE,
    SCHEDULES,
    complaints,
    fingerprint,
    from_betas,
    from_sigmas,
    with_zero_terminal_snr,
)

STEPS = [24, 50, 100, 250, 1000, 4000]


def betas_of(logsnr: Tensor) -> Tensor:
    """The share of noise that each timestep adds to the one before."""
    log_alpha_bar = torch.nn.functional.logsigmoid(logsnr)
    before = torch.cat([torch.zeros(1, dtype=torch.float64), log_alpha_bar[:-1]])
    return -torch.expm1(log_alpha_bar - before)


@settings(max_examples=25)
@given(T=st.integers(2, 2000))
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_timestep_adds_noise_and_leaves_signal(name: str, T: int):
    logsnr = table(name, T)
    assert logsnr.shape == (T,)
    assert logsnr.dtype == torch.float64
    assert logsnr.isfinite().all()
    assert (logsnr.diff() < 0).all()
    alpha_bar = torch.sigmoid(logsnr)
    assert ((alpha_bar > 0) & (alpha_bar < 1)).all()
    assert (alpha_bar.diff() < 0).all()
    betas = betas_of(logsnr)
    # Rounding of alpha_bar near 1 reaches the betas of sub_vp, whose first are 1e-9.
    assert ((betas > 0) & (betas < 1)).all()


@settings(max_examples=50)
@given(st.lists(st.floats(1e-7, MAX_BETA), min_size=2, max_size=50))
def test_betas_make_a_table_that_gives_them_back(betas: list[float]):
    given_betas = torch.tensor(betas, dtype=torch.float64)
    logsnr = from_betas(given_betas)
    assert (logsnr.diff() < 0).all()
    # A difference of logarithms of size up to 350 keeps 1e-13; the least beta is 1e-7.
    torch.testing.assert_close(betas_of(logsnr), given_betas, rtol=2e-6, atol=1e-13)
    # The same by the definition, which loses digits where alpha_bar is near 0 or 1.
    alpha_bar = (1 - given_betas).cumprod(0)
    torch.testing.assert_close(torch.sigmoid(logsnr), alpha_bar, rtol=1e-9, atol=1e-12)


@given(st.lists(st.floats(1e-4, 1e4), min_size=2, max_size=20, unique=True))
def test_sigmas_are_ratios_of_noise_to_signal(sigmas: list[float]):
    ratios = torch.tensor(sorted(sigmas), dtype=torch.float64)
    alpha_bar = torch.sigmoid(from_sigmas(ratios))
    torch.testing.assert_close((1 - alpha_bar) / alpha_bar, ratios**2, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("name", "T", "logsnr"),
    [("linear", 1000, -10.12), ("cosine", 1000, -19.84), ("sigmoid", 1000, -15.02),
     ("custom", 24, -9.41)],
)  # fmt: skip
def test_the_last_timestep_is_where_the_papers_put_it(name: str, T: int, logsnr: float):
    assert round(float(table(name, T)[-1]), 2) == logsnr


@pytest.mark.parametrize(("name", "T", "signal"), [("linear", 1000, 0.0064), ("custom", 24, 0.009)])
def test_of_the_signal_as_much_is_left_as_the_papers_say(name: str, T: int, signal: float):
    assert torch.sigmoid(table(name, T)[-1]).sqrt() == pytest.approx(signal, abs=6e-5)


@pytest.mark.parametrize("T", STEPS[1:])
def test_linear_ends_in_about_the_same_noise_for_any_number_of_timesteps(T: int):
    # 0.28 % of the signal at T = 50 and 0.65 % at T = 4000, of which 0.63 % at T = 1000.
    assert 0.0027 < torch.sigmoid(table("linear", T)[-1]).sqrt() < 0.0066


def test_linear_at_few_timesteps_is_clamped_and_finite():
    logsnr = table("linear", 20)
    assert logsnr.isfinite().all()
    assert betas_of(logsnr)[-1] == pytest.approx(MAX_BETA, abs=1e-9)


def test_scaled_linear_is_linear_in_the_roots_of_its_betas():
    roots = betas_of(table("scaled_linear", scale_betas=False)).sqrt()
    torch.testing.assert_close(roots, torch.linspace(0.01, 0.02**0.5, 1000).double())


def test_laplace_has_the_quantiles_of_its_distribution():
    levels = table("laplace", 100, mu=0.5, b=2.0)
    share = torch.distributions.Laplace(0.5, 2.0).cdf(levels)
    torch.testing.assert_close(share.flip(0), (torch.arange(100).double() + 0.5) / 100)


@pytest.mark.parametrize("name", ["geometric", "edm"])
def test_variance_exploding_schedules_run_from_sigma_min_to_sigma_max(name: str):
    sigmas = torch.exp(table(name, 40, sigma_min=0.002, sigma_max=80.0) / -2)
    assert sigmas[[0, -1]].tolist() == pytest.approx([0.002, 80], rel=1e-12)
    even = sigmas.log() if name == "geometric" else sigmas ** (1 / 7)
    torch.testing.assert_close(even.diff(), even.diff().mean().expand(39), rtol=1e-9, atol=0)


def test_vp_and_sub_vp_solve_their_differential_equations():
    # beta(u) grows linearly from 0.1 to 20: alpha = exp(-1/2 int beta), noise sqrt(1 - alpha^2)
    # of VP, and its square of sub-VP.
    u = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    integral = torch.cumulative_trapezoid(0.1 + 19.9 * u, u)[99::100]
    alpha = torch.exp(-integral / 2)
    vp, sub_vp = alpha**2 / (1 - alpha**2), alpha**2 / (1 - alpha**2) ** 2
    torch.testing.assert_close(table("vp"), vp.log(), rtol=0, atol=1e-9)
    torch.testing.assert_close(table("sub_vp"), sub_vp.log(), rtol=0, atol=1e-9)


def test_options_of_other_schedules_are_ignored():
    assert table("cosine", 50, beta_end=0.5).equal(table("cosine", 50))
    assert table("linear", 50, s=0.5).equal(table("linear", 50))


def test_a_schedule_that_leaks_signal_is_complained_about_with_its_share():
    (sentence,) = complaints(table("linear", 250, scale_betas=False))
    assert sentence.startswith("the noisiest timestep keeps 28% of the signal")
    assert "diffusion.rescale_zero_terminal_snr" in sentence


def test_timesteps_without_signal_are_complained_about_with_their_share():
    levels = table("linear", 4000, scale_betas=False)
    share = (levels < -5).double().mean()
    (sentence,) = complaints(levels)
    assert sentence.startswith(f"{share:.0%} of the timesteps lie below logsnr -5")
    assert round(float(levels[-1]), 1) == -40.5
    assert share == pytest.approx(0.65, abs=0.01)


@pytest.mark.parametrize("T", STEPS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_default_schedules_are_silent(name: str, T: int):
    # The least signal that T samples of a Laplace distribution reach is about T^(-1/2).
    expected = 1 if name == "laplace" and T < 100 else 0
    assert len(complaints(table(name, T))) == expected


@settings(max_examples=25)
@given(T=st.integers(2, 2000))
@pytest.mark.parametrize("name", SCHEDULES)
def test_with_zero_terminal_snr_only_the_last_timestep_is_noise_alone(name: str, T: int):
    before = table(name, T)
    after = with_zero_terminal_snr(before)
    assert (after.diff() < 0).all()
    assert after[-1] <= PURE_NOISE
    assert after[0] == pytest.approx(float(before[0]), abs=1e-6)
    # sqrt(alpha_bar) is shifted and stretched: all its differences in one ratio.
    old, new = torch.sigmoid(before).sqrt(), torch.sigmoid(after).sqrt()
    stretch = old[0] / (old[0] - old[-1])
    torch.testing.assert_close(new.diff(), stretch * old.diff(), rtol=0, atol=1e-7)


def test_a_schedule_that_was_too_noisy_before_still_falls_strictly():
    for T in (4000, 10_000):
        levels = with_zero_terminal_snr(table("linear", T, scale_betas=False))
        assert levels.isfinite().all()
        assert (levels.diff() < 0).all()


def test_at_zero_terminal_snr_x_t_is_the_noise():
    level = with_zero_terminal_snr(table("cosine"))[-1:]
    noise = torch.randn(1, 100_000, generator=generator("pure noise"))
    x_T = add_noise(torch.ones_like(noise), noise, level)
    large = noise.abs() >= 0.5
    assert x_T[large].equal(noise[large])  # to the bit, in float32
    assert (x_T - noise).abs().max() < 3e-8  # one unit in the last place below 1/2


def test_a_fingerprint_is_the_same_for_the_same_levels_and_no_others():
    prints = {name: fingerprint(table(name)) for name in SCHEDULES}
    assert len(set(prints.values())) == len(SCHEDULES)
    for name, digits in prints.items():
        assert len(digits) == 12
        assert set(digits) <= set("0123456789abcdef")
        assert digits == fingerprint(table(name))
        assert digits != fingerprint(table(name, 999))
        assert digits != fingerprint(with_zero_terminal_snr(table(name)))


def test_a_fingerprint_sees_the_fifth_decimal_and_no_rounding():
    levels = torch.tensor([3.0, 0.5, -2.0], dtype=torch.float64)
    assert fingerprint(levels * (1 + 1e-15)) == fingerprint(levels)
    assert fingerprint(levels + 1e-5) != fingerprint(levels)
