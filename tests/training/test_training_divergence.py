"""Steps that are not finite: a few are skipped, many end the run."""

from collections.abc import Callable, Collection
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed
from toy import BATCH, CPU, World
from two_workers import first_slice, task

from ray_diffusion import config
from ray_diffusion.config import Config
from ray_diffusion.errors import Diverged, Preempted
from ray_diffusion.training import loop
from ray_diffusion.training.checkpoint import name_of
from ray_diffusion.training.collective import GradientSum
from ray_diffusion.training.state import TrainState, initial_state
from ray_diffusion.training.step import StepResult, train_step

INF, NAN = float("inf"), float("nan")


def step(state: TrainState, run: Config) -> StepResult:
    """The next step, on the first batch."""
    return train_step(state, first_slice(run, 0, 1), task(run))


def learned(state: TrainState) -> list[Tensor]:
    """Copies of weights and moments; of shared ones, of this worker's share."""
    moments = [m for of_one in state.optimizer.state.values() for m in of_one.values()]
    found = [*state.network.parameters(), *moments]
    return [(v.to_local() if hasattr(v, "to_local") else v).detach().clone() for v in found]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(a.equal(b) for a, b in zip(first, second, strict=True))


def spoil(state: TrainState, value: float, wanted: Callable[[], bool] = lambda: True) -> Any:
    """From now on let one gradient come to be a value, when it is wanted."""
    return next(state.network.parameters()).register_hook(
        lambda gradient: torch.full_like(gradient, value) if wanted() else gradient
    )


@pytest.fixture
def spoiled(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Spoils the gradients of chosen steps of every run, the first of which is step 1."""

    def choose(steps: Collection[int], value: float = NAN) -> None:
        def begun(*args: Any) -> TrainState:
            state = initial_state(*args)
            spoil(state, value, lambda: state.steps + 1 in steps)
            return state

        monkeypatch.setattr(loop, "initial_state", begun)

    return choose


def at(world: World, metric: str) -> list[int]:
    return [seen // BATCH for seen, name in world.points if name == metric]


# A step


@pytest.mark.parametrize("value", [INF, -INF, NAN, 1e30], ids=str)  # the square of 1e30 is inf
@pytest.mark.parametrize("before", [0, 2])
def test_a_step_whose_gradient_is_not_finite_teaches_nothing_and_counts(
    run: Config, before: int, value: float
):
    state = initial_state(run, CPU)
    for _ in range(before):
        assert step(state, run).skipped == 0
    expected = learned(state)
    hook = spoil(state, value)
    result = step(state, run)
    hook.remove()
    assert result.skipped == 1
    assert result.votes.tolist() == [0, 0, 1]
    assert (state.steps, state.images_seen) == (before + 1, (before + 1) * BATCH)
    found = learned(state)
    assert same(found[: len(expected)], expected)
    assert not any(value.any() for value in found[len(expected) :])  # moments of the first step


def test_after_a_skipped_step_training_goes_on_as_if_it_had_not_been_tried(run: Config):
    tried, untried = initial_state(run, CPU), initial_state(run, CPU)
    for state in (tried, untried):
        step(state, run)
    hook = spoil(tried, NAN)
    step(tried, run)
    hook.remove()
    untried.steps, untried.images_seen = tried.steps, tried.images_seen
    for state in (tried, untried):
        assert step(state, run).skipped == 0
    assert same(learned(tried), learned(untried))


def test_one_micro_batch_spoils_the_step(run: Config):
    run = config.override(run, {"training.micro_batch_size": 8})
    state, calls = initial_state(run, CPU), iter(range(4))
    before = learned(state)
    spoil(state, NAN, lambda: next(calls) == 1)
    assert step(state, run).skipped == 1
    assert next(calls, None) is None
    assert same(learned(state)[: len(before)], before)


def test_a_loss_that_is_not_finite_is_enough(run: Config):
    class Overflowing(GradientSum):
        def finish(self, facts: Tensor) -> None:
            facts[0] = INF

    state = initial_state(run, CPU)
    state.gradients = Overflowing(state.network.parameters())
    before = learned(state)
    result = step(state, run)
    assert result.grad_norm.isfinite()
    assert result.skipped == 1
    assert same(learned(state)[: len(before)], before)


def work(rank: int, directory: Path, run: Config) -> None:
    """One of two processes; in the second step an example of the second one weighs too much."""
    torch.set_num_threads(1)
    store = f"file://{directory}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    try:
        found = {}
        for strategy in ("ddp", "fsdp"):
            chosen = config.override(run, {"cluster.strategy": strategy})
            state, batch = initial_state(chosen, CPU), first_slice(run, rank, 2)
            worthy = batch.weights.clone()
            worthy[0] = INF if rank == 1 else 1
            told, states = [], []
            for weights in (batch.weights, worthy, batch.weights):
                taken = batch._replace(weights=weights)
                told.append(train_step(state, taken, task(chosen)).votes.tolist())
                states.append(learned(state))
            moved = [not same(*pair) for pair in pairwise(states)]
            found[strategy] = {"told": told, "moved": moved, "steps": state.steps}
        torch.save(found, directory / f"result-{rank}.pt")
    finally:
        distributed.destroy_process_group()


def test_all_workers_skip_the_step_that_one_of_them_spoiled(run: Config, tmp_path: Path):
    torch.multiprocessing.spawn(work, (tmp_path, run), nprocs=2)
    for rank in range(2):
        for found in torch.load(tmp_path / f"result-{rank}.pt").values():
            assert found["told"] == [[0, 0, 0], [0, 0, 1], [0, 0, 0]]
            assert found["moved"] == [False, True]
            assert found["steps"] == 3


# A run


def test_a_run_goes_on_after_a_skipped_step_and_counts_it(
    run: Config, world: World, undisturbed: World, spoiled: Callable[..., None]
):
    spoiled({4})
    assert world.train(run)["steps"] == 10
    assert at(world, "train/nonfinite_steps") == [4]
    assert world.points[4 * BATCH, "train/nonfinite_steps"] == 1
    healthy = [1, 2, 3, 5, 6, 7, 8, 9, 10]
    assert at(world, "train/loss") == at(world, "train/grad_norm") == healthy
    assert at(world, "train/lr") == list(range(1, 11))
    assert world.losses[:3] == undisturbed.losses[:3]
    assert world.losses[3] != undisturbed.losses[4]
    assert all(map(torch.isfinite, map(torch.tensor, world.points.values())))
    assert "train/nonfinite_steps" not in {name for _, name in undisturbed.points}


def test_the_mean_loss_leaves_skipped_steps_out(
    run: Config, world: World, tmp_path: Path, spoiled: Callable[..., None]
):
    spoiled({2, 3})
    each = World(tmp_path / "each")
    each.train(run)
    rarely = dict.fromkeys(("training.log_every_images", "training.checkpoint_every_images"), 10**6)
    world.train(config.override(run, rarely))
    assert at(world, "train/loss") == [5, 10]
    assert world.points[5 * BATCH, "train/nonfinite_steps"] == 2
    assert world.losses[0] == pytest.approx(sum(each.losses[:3]) / 3, rel=1e-6)


@pytest.mark.parametrize("most", [0, 2])
def test_one_more_in_a_row_than_allowed_ends_the_run(
    run: Config, world: World, spoiled: Callable[..., None], most: int
):
    run = config.override(run, {"training.max_nonfinite_steps": most})
    spoiled(range(4, 5 + most))
    last = (4 + most) * BATCH
    message = f"^{most + 1} steps in a row without a finite loss and gradient after {last} images; "
    with pytest.raises(Diverged, match=message + r"lower optim\.lr.*run\.name$"):
        world.train(run)
    assert world.run.names() == [name_of(3 * BATCH)]


def test_steps_that_are_not_in_a_row_do_not_end_it(
    run: Config, world: World, spoiled: Callable[..., None]
):
    spoiled({1, 3, 4, 6, 7, 9})
    world.train(config.override(run, {"training.max_nonfinite_steps": 2}))
    assert at(world, "train/loss") == [2, 5, 8, 10]


@pytest.mark.parametrize("steps", [4, 5, 6])
def test_a_run_stopped_around_a_skipped_step_ends_as_if_undisturbed(
    run: Config, world: World, tmp_path: Path, spoiled: Callable[..., None], steps: int
):
    spoiled({5, 6})
    whole = World(tmp_path / "whole")
    whole.train(run)
    with pytest.raises(Preempted, match=f"after {steps * BATCH} images, with a checkpoint"):
        world.train(run, stop_after=steps)
    world.train(run)
    assert world.weights() == whole.weights()
    assert world.points == whole.points


def test_a_checkpoint_waits_for_a_step_that_succeeds_and_a_validation_does_not(
    run: Config, world: World, spoiled: Callable[..., None]
):
    spoiled({5, 6})  # else validated and saved at 5, saved at 6
    world.train(config.override(run, {"training.log_every_images": 10**6}), keep=9)
    assert world.run.names() == [name_of(n * BATCH) for n in (3, 7, 9, 10)]
    assert at(world, "val/loss") == [5, 10]


def test_a_run_whose_last_step_is_skipped_is_saved(
    run: Config, world: World, spoiled: Callable[..., None]
):
    spoiled({10})
    assert world.train(run)["steps"] == 10
    assert world.run.names()[-1] == name_of(10 * BATCH)


def test_a_pause_is_told_before_each_validation_and_checkpoint(
    run: Config, world: World, spoiled: Callable[..., None]
):
    spoiled({5})
    begun, paused_in = iter(range(1, 11)), []
    now = 0

    def should_stop() -> bool:
        nonlocal now
        now = next(begun)
        return False

    harness = replace(
        world.harness(), should_stop=should_stop, pausing=lambda: paused_in.append(now)
    )
    loop.loop(run, harness, CPU)
    assert paused_in == [3, 5, 6, 9, 10]
