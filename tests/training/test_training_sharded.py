"""Shares of the weights change who holds what, and nothing of what training comes to."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sharded_workers import (
    CASES,
    STRATEGIES,
    begun,
    case_of,
    data_of,
    everything,
    restored,
    train,
    work,
)
from torch import Tensor
from toy import BATCH, CPU, World

from ray_diffusion import config, pipeline
from ray_diffusion.config import Config
from ray_diffusion.storage import damage
from ray_diffusion.training import checkpoint
from ray_diffusion.training.checkpoint import name_of
from ray_diffusion.training.state import initial_state

UNEVEN = BATCH + 1  # of which the first worker holds 16
PARTS = {f"optimizer-0000{i}-of-00002.safetensors" for i in (1, 2)}
FILES = {"config.yaml", "ema.safetensors", "manifest.json", "model.safetensors", "state.json"}

Results = list[dict[str, Any]]


@pytest.fixture(scope="module")
def uneven(run: Config) -> Config:
    return config.override(run, {"data.global_batch_size": UNEVEN})


@pytest.fixture(scope="module")
def directory(uneven: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("two workers")
    torch.multiprocessing.spawn(work, (directory, uneven), nprocs=2)
    return directory


@pytest.fixture(scope="module")
def results(directory: Path) -> Results:
    return [torch.load(directory / f"result-{rank}.pt", weights_only=True) for rank in range(2)]


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def assert_losses_near(found: dict[tuple[int, str], float], ddp: dict[tuple[int, str], float]):
    names = {"train/loss", "val/loss", "val/score"}
    for (seen, name), value in found.items():
        if name in names:
            # The same numbers added in another order; Adam lets them drift apart.
            rel = 1e-5 if seen <= 5 * UNEVEN else 1e-3
            assert value == pytest.approx(ddp[seen, name], rel=rel), (seen, name)


# Steps


@pytest.mark.parametrize("case", CASES)
def test_sharded_workers_with_unequal_slices_train_as_unsharded_ones(results: Results, case: str):
    for result in results:
        (told_unsharded, unsharded), (told, state) = (result[f"{case}, {s}"] for s in STRATEGIES)
        assert told == [pytest.approx(step, rel=1e-5) for step in told_unsharded]
        assert_near(state, unsharded)


@pytest.mark.parametrize("case", ["unet", "dit"])
def test_sharded_workers_with_unequal_slices_train_as_one_that_holds_all(
    results: Results, uneven: Config, case: str
):
    chosen = case_of(uneven, case, "fsdp")
    alone = begun(chosen)
    told_alone = train(alone, chosen)
    told, state = results[0][f"{case}, fsdp"]
    assert told == [pytest.approx(step, rel=1e-5) for step in told_alone]
    assert_near(state, everything(alone, chosen))


def test_sharded_workers_may_compute_activations_again(results: Results):
    for result in results:
        (told, state), (told_again, again) = (
            result[f"{case}, fsdp"] for case in ("unet", "unet recomputed")
        )
        assert told_again == told
        assert_same(again, state)


def test_each_worker_holds_a_half(results: Results):
    (whole, *first), (_, *second) = (result["copies"]["bytes"] for result in results)
    for own, others in zip(first, second, strict=True):
        assert own + others == whole
        assert own == pytest.approx(whole / 2, rel=0.01)


def test_one_block_at_a_time_is_put_together(results: Results):
    stages = 4
    assert [result["copies"]["gathered apart"] for result in results] == [[True] * stages] * 2


def test_a_copy_to_call_alone_keeps_its_memory_format_and_drops_nothing(results: Results):
    for result in results:
        assert result["copies"]["is channels_last"]
        copied, spread = result["copies"]["images"]
        # Weights of another memory format: the convolutions add in another order.
        torch.testing.assert_close(copied, spread, rtol=1e-4, atol=1e-5)


# Checkpoints


@pytest.mark.parametrize("written", STRATEGIES)
@pytest.mark.parametrize("read", STRATEGIES)
def test_a_checkpoint_is_read_whoever_wrote_it(results: Results, written: str, read: str):
    for result in results:
        assert_same(result[f"{written} into {read}"], result[f"unet, {written}"][1])


def test_one_worker_reads_a_checkpoint_of_two(
    results: Results, uneven: Config, directory: Path, tmp_path: Path
):
    chosen = case_of(uneven, "unet", "fsdp")
    state = restored(chosen, World(directory / "of fsdp"), tmp_path / "into")
    assert_same(everything(state, chosen), results[0]["unet, fsdp"][1])


def test_what_one_worker_cannot_upload_fails_on_all_and_is_not_sealed(
    results: Results, directory: Path
):
    assert [result["failed publication"] for result in results] == ["no space left"] * 2
    assert [path.name for path in (directory / "failed").iterdir()] == ["from-0"]


def test_what_one_worker_cannot_write_fails_on_all(results: Results):
    errors = ["SafetensorError", "FileExistsError"]
    assert [result["failed writing"] for result in results] == [errors] * 2


@pytest.mark.parametrize(("change", "error"), [("shape", ValueError), ("name", RuntimeError)])
def test_moments_of_another_network_are_refused(
    run: Config, tmp_path: Path, change: str, error: type[Exception]
):
    state = initial_state(run, CPU)
    copy = checkpoint.snapshot(state, run, data := data_of(run))
    name, value = copy.moments.popitem()
    copy.moments[name if change == "shape" else f"{name} of old"] = value[None]
    checkpoint.write(tmp_path, copy)
    with pytest.raises(error, match=re.escape(name)):
        checkpoint.load(tmp_path, state, data)


# Runs


def test_a_sharded_run_comes_to_what_an_unsharded_one_does(results: Results):
    told, shown = results[0]["points"], results[0]["shown"]
    assert told["fsdp"].keys() == told["ddp"].keys()
    assert (10 * UNEVEN, "val/score") in told["fsdp"]
    assert_losses_near(told["fsdp"], told["ddp"])
    assert shown == [5 * UNEVEN, 10 * UNEVEN]


def test_a_checkpoint_of_several_workers_is_one_sealed_directory(directory: Path):
    newest = name_of(10 * UNEVEN)
    spread, whole = (directory / strategy / newest for strategy in ("fsdp", "ddp"))
    assert {path.name for path in spread.iterdir()} == FILES | PARTS
    assert {path.name for path in whole.iterdir()} == FILES | {"optimizer.safetensors"}
    assert damage(spread) is None
    listed = json.loads((spread / "manifest.json").read_text())["files"]
    assert {*listed, "manifest.json"} == FILES | PARTS
    sizes = [(spread / part).stat().st_size for part in PARTS]
    assert max(sizes) < 0.75 * (whole / "optimizer.safetensors").stat().st_size  # headers


def test_a_sharded_run_draws(directory: Path):
    found = pipeline.load(str(directory / "fsdp"))
    expected = load_file(directory / "fsdp" / name_of(10 * UNEVEN) / "ema.safetensors")
    assert_same(found.network.state_dict(), expected)
    assert found.draw(found.labels(2), seed=0).shape == (2, 1, 8, 8)


def test_as_many_workers_continue_to_the_bit(results: Results, directory: Path):
    for result in results:
        assert result["stopped"] == (
            f"stopped after {4 * UNEVEN} images, with a checkpoint; the same command continues"
        )
    assert World(directory / "stopped").weights() == World(directory / "fsdp").weights()
    points = results[0]["points"]
    assert points["stopped"] == points["fsdp"]


def test_one_worker_continues_a_sharded_run_of_two(
    results: Results, directory: Path, uneven: Config
):
    alone = World(directory / "alone")
    alone.train(config.override(uneven, {"cluster.strategy": "fsdp"}))
    assert len(alone.losses) == 6
    assert_losses_near(alone.points, results[0]["points"]["fsdp"])


def test_sharded_workers_continue_an_unsharded_run(results: Results, directory: Path):
    switched = results[0]["points"]["switched"]
    assert [seen for seen, name in switched if name == "train/loss"] == [
        step * UNEVEN for step in (7, 8, 9, 10)
    ]
    assert_losses_near(switched, results[0]["points"]["ddp"])
    newest = directory / "switched" / name_of(10 * UNEVEN)
    assert {path.name for path in newest.iterdir()} == FILES | PARTS


def test_the_first_worker_alone_deletes_what_need_not_stay(results: Results, directory: Path):
    kept = World(directory / "stopped").run.names()
    assert kept == [name_of(step * UNEVEN) for step in (8, 9, 10)]
    assert [damage(directory / "stopped" / name) for name in kept] == [None] * 3
    assert name_of(4 * UNEVEN) in results[0]["removed"]
    assert results[1]["removed"] == []
