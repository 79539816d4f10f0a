import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from gaussian_oracle import GaussianOracle
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ray_diffusion.diffusion.denoiser import Denoiser, Estimate
from ray_diffusion.diffusion.editing import (
    Sampler,
    inpaint,
    interpolate,
    renoise,
    restore,
    sdedit,
    slerp,
)
from ray_diffusion.diffusion.gaussian import alpha_sigma
from ray_diffusion.diffusion.grids import itinerary
from ray_diffusion.diffusion.random import generator
from ray_diffusion.diffusion.sampling import sample
from ray_diffusion.diffusion.schedule import SCHEDULES
from ray_diffusion.diffusion.solvers import SOLVERS

ORACLE = GaussianOracle()
TABLE = SCHEDULES["cosine"](1000)
MU, SD = ORACLE.means[0], ORACLE.sd
SIDE = 200  # pixels; means of so many have a z of 1 at sd / 200, sds at sd / 283


def sampler(
    solver: str, num_steps: int = 12, denoiser: Denoiser = ORACLE, indices: tuple[int, ...] = (0,)
) -> Sampler:
    levels = itinerary("uniform_logsnr", TABLE, num_steps, SOLVERS[solver].visits)
    return Sampler(denoiser, torch.zeros(len(indices)).long(), levels, solver, 3, list(indices))


def looks(how: Sampler, edit: Callable[[Sampler], Tensor]) -> list[tuple[Tensor, float]]:
    """The noisy data that an edit showed to the model, and their noise levels."""
    seen = []

    def looking(x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Estimate:
        seen.append((x_t, float(logsnr[0])))
        return how.denoiser(x_t, logsnr, condition)

    edit(how._replace(denoiser=looking))
    return seen


def assert_normal(found: Tensor, mean: float, sd: float) -> None:
    """Within five standard errors of the mean and of the standard deviation."""
    n = found.numel()
    assert float(found.mean()) == pytest.approx(mean, abs=5 * sd / n**0.5)
    assert float(found.std()) == pytest.approx(sd, abs=5 * sd / (2 * n) ** 0.5)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_variations_of_an_image_have_the_distribution_of_the_probability_flow(solver: str):
    logsnr, x_in = -1.0, 1.0
    fine = torch.cat([torch.linspace(logsnr, 12, 300).double(), torch.tensor([math.inf])])
    found = sdedit(
        sampler(solver)._replace(levels=fine), torch.full((1, 1, SIDE, SIDE), x_in), strength=1
    )
    alpha, sigma = (float(value) for value in alpha_sigma(torch.tensor(logsnr)))
    q = math.hypot(alpha * SD, sigma)
    mean, sd = MU + SD * alpha * (x_in - MU) / q, SD * sigma / q
    assert (mean, sd) == (pytest.approx(0.4900, abs=5e-5), pytest.approx(0.2472, abs=5e-5))
    assert_normal(found, mean, sd)


@given(st.sampled_from(sorted(SOLVERS)), st.integers(1, 40), st.floats(0, 1, exclude_min=True))
def test_strength_is_the_share_of_the_noise_levels_that_is_walked(
    solver: str, num_steps: int, strength: float
):
    how = sampler(solver, num_steps)
    whole = sorted(set(how.levels[:-1].tolist()))
    edit = partial(sdedit, x0=torch.zeros(1, 1, 2, 2), strength=strength)
    seen = [level for _, level in looks(how, edit)]
    walked = sorted(set(seen))
    assert walked == whole[-len(walked) :]
    assert abs(len(walked) - strength * len(whole)) <= (1 if len(walked) == 1 else 0.5)
    assert seen.count(walked[0]) == 1  # a second look needs one before it


def test_at_full_strength_next_to_nothing_is_left_of_the_image():
    how, levels = sampler("ddim"), itinerary("trailing", TABLE, 12)
    how = how._replace(levels=levels)
    black, white = (sdedit(how, torch.full((1, 1, 9, 9), v), strength=1) for v in (-1.0, 1.0))
    assert (white - black).abs().max() < 1e-3
    plain = sample(how.denoiser, how.condition, (1, 9, 9), *how[2:])
    torch.testing.assert_close(white, plain, rtol=0, atol=1e-3)


def test_the_least_strength_leaves_the_image_nearly_as_it_is():
    x0 = torch.rand(1, 1, 9, 9, generator=generator("edit"))
    found = sdedit(sampler("ddim"), x0, strength=1e-9)
    torch.testing.assert_close(found, x0, rtol=0, atol=0.02)  # its sigma there is 0.0045


@pytest.mark.parametrize("strength", [0, -0.1, 1.1, math.nan])
def test_a_strength_out_of_range_is_refused(strength: float):
    with pytest.raises(ValueError, match="strength must be above 0 and at most 1, got"):
        sdedit(sampler("ddim"), torch.zeros(1, 1, 2, 2), strength)


@pytest.mark.parametrize("noise_sigma", [0.05, 0.3, 2.0])
def test_without_noise_of_its_own_a_solver_restores_along_the_probability_flow(noise_sigma: float):
    noisy = torch.linspace(-2, 3, 100, dtype=torch.float64).view(1, 1, 10, 10)
    found = restore(sampler("dpmpp_2m", 400), noisy, noise_sigma)
    logsnr = torch.tensor(-2 * math.log(noise_sigma))
    expected = ORACLE.ode_map(noisy * alpha_sigma(logsnr)[0], logsnr, torch.tensor(math.inf))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("noise_sigma", [0.1, 0.5])
def test_with_the_right_variance_restored_images_are_draws_from_the_posterior(noise_sigma: float):
    y, precision = 0.9, 1 / SD**2 + 1 / noise_sigma**2
    how = sampler("ddpm", 12, ORACLE.with_variance)
    found = restore(how, torch.full((1, 1, SIDE, SIDE), y), noise_sigma)
    assert_normal(found, (MU / SD**2 + y / noise_sigma**2) / precision, precision**-0.5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_noisy_image_starts_at_its_own_level(solver: str):
    how, noisy = sampler(solver), torch.rand(1, 1, 2, 2, generator=generator("edit"))
    (x_t, level), *rest = looks(how, partial(restore, noisy=noisy, noise_sigma=0.5))
    assert level == pytest.approx(-2 * math.log(0.5))
    torch.testing.assert_close(x_t, noisy / 1.25**0.5)
    assert [later for _, later in rest] == [v for v in how.levels[:-1].tolist() if v > level]


@pytest.mark.parametrize("noise_sigma", [0, -1, math.nan])
def test_an_image_without_noise_is_not_restored(noise_sigma: float):
    with pytest.raises(ValueError, match="noise_sigma must be above 0, got"):
        restore(sampler("ddim"), torch.zeros(1, 1, 2, 2), noise_sigma)


RHO, SEEN = 0.9, 1.5
EXACT_MEAN, EXACT_SD = RHO * SEEN, (1 - RHO**2) ** 0.5


def pair_oracle(x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Estimate:
    """The perfect denoiser of two channels, standard normal with correlation ``RHO``."""
    covariance = torch.tensor([[1, RHO], [RHO, 1]], dtype=torch.float64)
    alpha, sigma = alpha_sigma(logsnr[0])
    noisy = alpha**2 * covariance + sigma**2 * torch.eye(2)
    gain = alpha * covariance @ torch.linalg.inv(noisy)
    left = covariance - alpha * gain @ covariance
    x0 = torch.einsum("ij,bjhw->bihw", gain.to(x_t.dtype), x_t)
    return Estimate(x0, left.diag().to(x_t.dtype).view(1, 2, 1, 1))


def pair_without_variance(x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Estimate:
    return Estimate(pair_oracle(x_t, logsnr, condition).x0)


def second_given_first(denoiser: Denoiser, resamplings: int, solver: str = "ddpm") -> Tensor:
    """The second channel, drawn around a first that is 1.5 everywhere: 10,000 pixels."""
    x0, keep = torch.full((1, 2, 100, 100), SEEN), torch.tensor([True, False]).view(1, 2, 1, 1)
    found = inpaint(sampler(solver, 40, denoiser), x0, keep, resamplings)
    assert found[:, 0].equal(x0[:, 0])
    return found[:, 1]


@pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "langevin"])
def test_resampling_brings_a_hole_closer_to_its_surroundings(solver: str):
    # Means have a standard error of 0.007 at most, the biases are 0.4 and more at one pass.
    biases = [
        EXACT_MEAN - float(second_given_first(pair_without_variance, r, solver).mean())
        for r in (1, 5)
    ]
    assert 0 < biases[1] < biases[0] / 2


def test_many_resamplings_reach_the_conditional_mean_and_with_the_right_variance_its_spread():
    # With beta_tilde the spread stays too small, as it does for plain samples in so few steps.
    fixed, exact = (second_given_first(d, 20) for d in (pair_without_variance, pair_oracle))
    for found in (fixed, exact):
        assert float(found.mean()) == pytest.approx(EXACT_MEAN, abs=0.04)
    assert float(fixed.std()) < 0.95 * EXACT_SD
    assert float(exact.std()) == pytest.approx(EXACT_SD, rel=0.05)


def picture(*indices: int) -> Tensor:
    """A picture for each index, shape ``(B, 2, 5, 5)``."""
    return torch.stack([torch.rand(2, 5, 5, generator=generator("picture", i)) for i in indices])


LEFT = (torch.arange(5) < 2).expand(1, 1, 5, 5)  # a mask that keeps the two columns on the left


@pytest.mark.parametrize("resamplings", [1, 3])
@pytest.mark.parametrize("solver", SOLVERS)
def test_kept_pixels_stay_as_they_are_and_the_others_do_not(solver: str, resamplings: int):
    x0 = picture(0, 1)
    found = inpaint(sampler(solver, indices=(0, 1)), x0, LEFT, resamplings)
    assert found[..., :2].equal(x0[..., :2])
    assert (found[..., 2:] != x0[..., 2:]).all()


@pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "dpmpp_2m"])
def test_one_pass_around_nothing_is_sampling(solver: str):
    how = sampler(solver)
    plain = sample(how.denoiser, how.condition, (2, 5, 5), *how[2:])
    assert inpaint(how, picture(0), torch.zeros(1).bool(), resamplings=1).equal(plain)


def test_around_a_hole_a_solver_forgets():
    found = [inpaint(sampler(name), picture(0), LEFT, 2) for name in ("dpmpp_2m", "ddim")]
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("resamplings", [1, 4])
@pytest.mark.parametrize(("solver", "moves"), [("ddim", 11), ("heun", 6), ("langevin", 3)])
def test_every_move_but_the_last_is_made_as_often_as_resampled_and_no_correction(
    solver: str, moves: int, resamplings: int
):
    edit = partial(inpaint, x0=picture(0), keep=LEFT, resamplings=resamplings)
    assert len(looks(sampler(solver, 12), edit)) == 12 + moves * (resamplings - 1)


@pytest.mark.parametrize("solver", ["ddpm", "heun"])
def test_the_model_sees_known_pixels_at_its_own_noise_level(solver: str):
    # From a level where much signal is left: the first look too must not be at noise alone.
    levels = torch.tensor(
        [-1.0, 0, 0, 3, 3, math.inf] if solver == "heun" else [-1.0, 0, 3, math.inf]
    )
    how = sampler(solver)._replace(levels=levels.double())
    x0, keep = torch.full((1, 2, SIDE, SIDE), 0.7), torch.tensor([True, False]).view(1, 2, 1, 1)
    for x_t, level in looks(how, partial(inpaint, x0=x0, keep=keep, resamplings=2)):
        alpha, sigma = (float(value) for value in alpha_sigma(torch.tensor(level)))
        assert_normal(x_t[:, 0], 0.7 * alpha, sigma)


def test_less_than_one_resampling_is_refused():
    with pytest.raises(ValueError, match="resamplings must be at least 1, got 0"):
        inpaint(sampler("ddim"), picture(0), LEFT, 0)


@given(st.floats(-15, 15), st.floats(1e-6, 15))
def test_going_back_ends_in_the_forward_process(noisier: float, gap: float):
    t, s = torch.tensor([noisier]).double(), torch.tensor([noisier + gap]).double()
    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(t), alpha_sigma(s)
    one, zero = torch.ones(1).double(), torch.zeros(1).double()
    kept, added = renoise(one, s, t, zero), renoise(zero, s, t, one)
    torch.testing.assert_close(kept * alpha_s, alpha_t)
    torch.testing.assert_close((kept * sigma_s) ** 2 + added**2, sigma_t**2, rtol=1e-9, atol=1e-12)


@given(st.floats(0, 1))
def test_noise_between_two_draws_is_standard_normal(share: float):
    one, zero, at = torch.ones(1).double(), torch.zeros(1).double(), torch.tensor([share])
    power = slerp(one, zero, at) ** 2 + slerp(zero, one, at) ** 2
    torch.testing.assert_close(power, one)


def test_noise_between_two_draws_starts_at_one_and_ends_at_the_other():
    here, there = torch.randn(2, 3, 50, generator=generator("slerp"))
    share = torch.tensor([0.0, 0.5, 1.0])
    found = slerp(here, there, share)
    assert found[0].equal(here[0])
    assert found[2].equal(there[2])
    torch.testing.assert_close(found[1], (here[1] + there[1]) / 2**0.5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_path_between_seeds_ends_in_their_samples(solver: str):
    how = sampler(solver, indices=(4, 4, 4))
    path = interpolate(how, (2, 5, 5), other_seed=9, share=torch.tensor([0.0, 0.5, 1.0]))
    start, end = (
        sample(how.denoiser, how.condition, (2, 5, 5), *how._replace(seed=seed)[2:])[0]
        for seed in (how.seed, 9)
    )
    assert path[0].equal(start)
    assert path[2].equal(end) != SOLVERS[solver].stochastic
    assert not path[1].equal(path[0])
    assert not path[1].equal(path[2])


EDITS: dict[str, Callable[[Sampler], Tensor]] = {
    "sdedit": lambda how: sdedit(how, picture(*how.indices), 0.6),
    "restore": lambda how: restore(how, picture(*how.indices), 0.4),
    "inpaint": lambda how: inpaint(how, picture(*how.indices), LEFT, 2),
    "interpolate": lambda how: interpolate(how, (2, 5, 5), 9, torch.tensor(how.indices) / 10),
}


@pytest.mark.parametrize("solver", ["ddpm", "dpmpp_2m", "predictor_corrector"])
@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_image_does_not_depend_on_its_batch(edit: str, solver: str):
    together = EDITS[edit](sampler(solver, indices=(5, 0, 9)))
    assert together.dtype == torch.float32
    for row, index in enumerate([5, 0, 9]):
        assert together[row].equal(EDITS[edit](sampler(solver, indices=(index,)))[0])


@pytest.mark.parametrize("edit", EDITS)
def test_editing_keeps_no_graph(edit: str):
    weight = torch.ones(1, requires_grad=True)

    def learning(x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Estimate:
        return Estimate(weight * ORACLE(x_t, logsnr, condition).x0)

    assert not EDITS[edit](sampler("ddim", denoiser=learning)).requires_grad


def test_edits_of_a_class_have_its_mean():
    two = GaussianOracle(means=(0.8, -0.8), sd=0.05)
    how = sampler("ddpm", 30, two.with_variance, (0, 1))._replace(condition=torch.tensor([0, 1]))
    x0 = torch.zeros(2, 1, 30, 30)
    for found in (sdedit(how, x0, 0.9), inpaint(how, x0, torch.zeros(1).bool(), 2)):
        torch.testing.assert_close(
            found.flatten(1).mean(1), torch.tensor(two.means), rtol=0, atol=0.01
        )
