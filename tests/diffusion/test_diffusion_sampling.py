import pytest
import torch
from gaussian_oracle import GaussianOracle
from hypothesis import given
from hypothesis import strategies as st

from ray_diffusion.diffusion.sampling import sample, trailing_grid
from ray_diffusion.diffusion.schedule import SCHEDULES, table
from ray_diffusion.diffusion.solvers import SOLVERS

ORACLE = GaussianOracle(means=(0.4, -0.2))
GRID = trailing_grid(table("cosine", 100), 7)


def drawn(solver: str, indices: list[int], seed: int = 3) -> torch.Tensor:
    """Images of the class of their index's parity, shape ``(B, 2, 5, 5)``."""
    return sample(ORACLE, torch.tensor(indices) % 2, (2, 5, 5), GRID, solver, seed, indices)


@given(st.data())
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_trailing_grid_falls_from_pure_noise_to_clean_data(schedule: str, data: st.DataObject):
    T = data.draw(st.integers(2, 300))
    num_steps = data.draw(st.integers(1, T))
    levels = table(schedule, T)
    grid = trailing_grid(levels, num_steps)
    assert grid.shape == (num_steps + 1,)
    assert grid[0] == levels[T - 1]
    assert grid[-1] == torch.inf
    assert (grid.diff() > 0).all()
    assert torch.isin(grid[:-1], levels).all()


@pytest.mark.parametrize(
    ("num_steps", "timesteps"),
    [(1, [9]), (2, [9, 4]), (5, [9, 7, 5, 3, 1]), (10, range(9, -1, -1))],
)
def test_a_trailing_grid_is_even_in_timesteps(num_steps: int, timesteps: list[int]):
    levels = table("cosine", 10)
    assert trailing_grid(levels, num_steps)[:-1].equal(levels[list(timesteps)])


@pytest.mark.parametrize("num_steps", [0, -1, 11])
def test_more_steps_than_timesteps_or_none_are_refused(num_steps: int):
    with pytest.raises(ValueError, match=rf"must be 1\.\.10, got {num_steps}"):
        trailing_grid(table("cosine", 10), num_steps)


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


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_step_is_the_denoiser_of_pure_noise(solver: str):
    grid = trailing_grid(table("cosine", 1000), 1)
    x0 = sample(ORACLE, torch.zeros(1).long(), (1, 50, 50), grid, solver, 0, [0])
    assert x0.mean() == pytest.approx(0.4, abs=1e-3)  # pure noise says nothing: the mean


def test_sampling_keeps_no_graph():
    weight = torch.ones(1, requires_grad=True)
    x0 = sample(
        lambda *inputs: weight * ORACLE(*inputs), torch.zeros(1).long(), (1, 2, 2), GRID, "ddim",
        0, [0],
    )  # fmt: skip
    assert not x0.requires_grad
