from pathlib import Path
from typing import Any

import pytest
import torch
from toy import BATCH, World
from two_workers import first_slice, first_step, val_loss, work

from ray_diffusion import config
from ray_diffusion.config import Config
from ray_diffusion.training.collective import rank_and_world, sum_over_workers


@pytest.fixture(scope="module")
def directory(run: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("two workers")
    torch.multiprocessing.spawn(work, (directory, run), nprocs=2)
    return directory


@pytest.fixture(scope="module")
def results(directory: Path) -> list[dict[str, Any]]:
    return [torch.load(directory / f"result-{rank}.pt", weights_only=True) for rank in range(2)]


def test_workers_know_their_rank(results: list[dict[str, Any]]):
    assert [result["rank and world"] for result in results] == [(0, 2), (1, 2)]
    assert rank_and_world() == (0, 1)


def test_sums_are_the_same_on_every_worker(results: list[dict[str, Any]]):
    matrix = torch.arange(24.0).view(1, 2, 3, 4)
    for result in results:
        summed, scalar, empty = result["sums"]
        assert summed.equal(11 * matrix)
        assert scalar == 3
        assert empty.shape == (0,)


def test_one_worker_is_its_own_sum():
    tensors = [torch.ones(3), torch.tensor(2.0)]
    sum_over_workers(tensors)
    assert tensors[0].tolist() == [1, 1, 1]
    assert tensors[1] == 2


def test_the_validation_loss_does_not_depend_on_the_number_of_workers(
    results: list[dict[str, Any]], run: Config
):
    assert results[0]["val/loss"] == results[1]["val/loss"]
    # Other batches: the network rounds otherwise.
    assert results[0]["val/loss"] == pytest.approx(val_loss(run), rel=1e-6)


def test_two_workers_with_unequal_slices_take_the_step_of_one(
    results: list[dict[str, Any]], run: Config
):
    uneven = config.override(run, {"data.global_batch_size": BATCH + 1})
    assert [len(first_slice(uneven, rank, 2).labels) for rank in (0, 1)] == [16, 17]
    loss, norm = first_step(uneven, rank=0, world=1)
    for result in results:
        # The same numbers added in another order.
        assert result["first step"] == pytest.approx((loss, norm), rel=1e-5)
        assert result["micro step"] == pytest.approx((loss, norm), rel=1e-5)


def test_sums_that_overlap_the_backward_pass_are_those_of_one_flat_sum(
    results: list[dict[str, Any]],
):
    for result in results:
        flat, overlapping = result["gradients"]
        assert len(flat) > 10
        for one, other in zip(flat, overlapping, strict=True):
            assert one.equal(other)


def test_one_workers_wish_to_stop_stops_all_and_the_run_ends_as_if_undisturbed(
    results: list[dict[str, Any]], directory: Path
):
    for result in results:
        assert result["stopped"].startswith("stopped after 99 images, with a checkpoint")
    assert World(directory / "stopped").weights() == World(directory / "undisturbed").weights()
