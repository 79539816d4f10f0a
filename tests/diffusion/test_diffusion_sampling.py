import pytest
import torch
from gaussian_oracle import GaussianOracle
from tables import table
from torch import Tensor

from ray_diffusion.diffusion.denoiser import Estimate
from ray_diffusion.diffusion.grids import GRIDS, itinerary
from ray_diffusion.diffusion.random import per_example_noise
from ray_diffusion.diffusion.sampling import draws_noise, sample, visit, walk
from ray_diffusion.diffusion.solvers import DEFAULTS, SOLVERS, Options

ORACLE = GaussianOracle(means=(0.4, -0.2))
TABLE = table("cosine", 100)


def drawn(solver: str, indices: list[int], seed: int = 3) -> Tensor:
    """Images of the class of their index's parity, shape ``(B, 2, 5, 5)``."""
    levels = itinerary("trailing", TABLE, 7, SOLVERS[solver].visits)
    return sample(ORACLE, torch.tensor(indices) % 2, (2, 5, 5), levels, solver, seed, indices)


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_image_depends_on_seed_and_index_and_not_on_its_batch(solver: str):
    together = drawn(solver, [5, 0, 9])
    assert together.dtype == torch.float32
    for row, index in enumerate([5, 0, 9]):
        assert together[row].equal(drawn(solver, [index])[0])
    assert together.equal(drawn(solver, [9, 5, 0])[[1, 2, 0]])


@pytest.mark.parametrize("solver", SOLVERS)
def test_another_seed_or_index_is_another_image(solver: str):
    first, second = drawn(solver, [2, 4])
    assert not first.equal(second)
    assert not first.equal(drawn(solver, [2], seed=4)[0])


@pytest.mark.parametrize("grid", sorted(set(GRIDS) - {"leading"}))
@pytest.mark.parametrize("solver", SOLVERS)
def test_one_step_is_the_denoiser_of_pure_noise(solver: str, grid: str):
    levels = itinerary(grid, table("cosine"), 1, SOLVERS[solver].visits)
    x0 = sample(ORACLE, torch.zeros(1).long(), (1, 50, 50), levels, solver, 0, [0])
    # At logsnr -10 pure noise says almost nothing: the mean, give or take 4e-4.
    assert (x0 - 0.4).abs().max() < 3e-3


@pytest.mark.parametrize("solver", ["ddim", "ddpm", "heun", "dpmpp_2m"])
def test_classes_get_their_own_images(solver: str):
    levels = itinerary("uniform_logsnr", TABLE, 60, SOLVERS[solver].visits)
    x = sample(ORACLE, torch.tensor([0, 1]), (1, 64, 64), levels, solver, 0, [0, 1])
    assert x.mean((1, 2, 3)).tolist() == pytest.approx([0.4, -0.2], abs=0.02)
    assert x.std((1, 2, 3)).tolist() == pytest.approx([0.25, 0.25], abs=0.035)


def test_a_walk_starts_where_it_is_told_and_may_end_before_clean_data():
    levels = torch.linspace(-2, 3, 200, dtype=torch.float64)
    start = torch.linspace(-2, 2, 25, dtype=torch.float64).view(1, 1, 5, 5)
    end = walk(ORACLE, start, torch.zeros(1).long(), levels, "dpmpp_2m", DEFAULTS, 0, [0])
    exact = ORACLE.ode_map(start, levels[0], levels[-1])
    torch.testing.assert_close(end, exact, rtol=0, atol=1e-4)


def test_sampling_starts_from_the_noise_of_its_indices():
    levels = itinerary("trailing", TABLE, 5)
    start = per_example_noise("x_T", 3, [4, 7], (2, 5, 5), "cpu")
    condition = torch.tensor([0, 1])
    walked = walk(ORACLE, start, condition, levels, "ddpm", DEFAULTS, 3, [4, 7])
    assert walked.equal(sample(ORACLE, condition, (2, 5, 5), levels, "ddpm", 3, [4, 7]))


def test_the_noise_of_a_step_is_fresh_and_its_own():
    seen = []

    def model(x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Estimate:
        seen.append(x_t)
        return Estimate(torch.zeros_like(x_t))

    levels = torch.full((4,), 0.0, dtype=torch.float64)  # corrections: langevin adds noise alone
    walk(model, torch.zeros(1, 1, 90, 90), torch.zeros(1), levels, "langevin", DEFAULTS, 0, [0])
    first, second = seen[1].flatten(), (seen[2] - 0.9 * seen[1]).flatten()
    correlation = (first * second).mean() / (first.std() * second.std())
    assert abs(correlation) < 4 / 90


def test_a_visit_is_the_point_and_what_the_model_says_there():
    x_t, level = torch.randn(2, 1, 3, 3), torch.tensor([-1.0, 2.0], dtype=torch.float64)
    condition = torch.tensor([0, 1])
    now, said = visit(ORACLE.with_variance, x_t, level, condition), ORACLE(x_t, level, condition)
    assert now.x_t is x_t
    assert now.logsnr is level
    assert now.x0.equal(said.x0)
    assert now.x0_var is not None
    assert now.x0_var.flatten().equal(ORACLE.x0_var(level).float())


@pytest.mark.parametrize("name", ["ddim", "euler"])
def test_ddim_draws_noise_only_for_an_eta(name: str):
    assert not draws_noise(name, DEFAULTS)
    assert draws_noise(name, Options(eta=0.1))


def test_sampling_keeps_no_graph():
    weight = torch.ones(1, requires_grad=True)

    def model(*inputs: Tensor) -> Estimate:
        return Estimate(weight * ORACLE(*inputs).x0)

    levels = itinerary("trailing", TABLE, 3)
    x0 = sample(model, torch.zeros(1).long(), (1, 2, 2), levels, "ddim", 0, [0])
    assert not x0.requires_grad
