"""What only a GPU can show; skipped where there is none."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from toy import BATCH, CPU, World, configured
from two_workers import first_slice, task

from ray_diffusion import config
from ray_diffusion.config import Config
from ray_diffusion.errors import Preempted
from ray_diffusion.training.loop import loop
from ray_diffusion.training.state import initial_state
from ray_diffusion.training.step import train_step
from ray_diffusion.training.votes import Votes

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]


def losses(dataset: Path, world: World, device: torch.device, **keys: object) -> list[float]:
    loop(configured(dataset, **keys), world.harness(), device)
    return world.losses


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gpu_lowers_the_loss(dataset: Path, world: World, precision: str, compiled: bool):
    keys = {
        "training.precision": precision,
        "training.compile": compiled,
        "training.total_images": 60 * BATCH,
        "cluster.use_gpu": True,
    }
    found = losses(dataset, world, torch.device("cuda"), **keys)
    assert sum(found[-10:]) < 0.9 * sum(found[:10])


def test_a_checkpoint_of_a_gpu_continues_on_a_cpu(dataset: Path, run: Config, world: World):
    with pytest.raises(Preempted):
        loop(run, world.harness(should_stop=lambda: True), torch.device("cuda"))
    assert world.train(config.override(run, {"cluster.use_gpu": False}))["steps"] == 10


def test_micro_batches_on_a_gpu_take_the_step_of_one_batch(dataset: Path, tmp_path: Path):
    whole, parts = (
        losses(dataset, World(tmp_path / str(most)), torch.device("cuda"), **keys)
        for most, keys in {None: {}, 8: {"training.micro_batch_size": 8}}.items()
    )
    assert parts[:2] == pytest.approx(whole[:2], rel=1e-3)


def test_nothing_in_a_step_waits_for_the_gpu(run: Config):
    device = torch.device("cuda")
    state, learns = initial_state(run, device), task(run, device)
    batch, votes = first_slice(run, 0, 1), Votes(device)
    batch = batch._replace(images=batch.images.pin_memory(), labels=batch.labels.pin_memory())
    for mode in ("default", "default", "error"):  # the first steps allocate
        with sync_debug_mode(mode):
            votes.told(train_step(state, batch, learns).votes)


@contextmanager
def sync_debug_mode(mode: str) -> Iterator[None]:
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_votes_on_a_gpu_are_read_one_step_late():
    votes, asked = Votes(torch.device("cuda")), torch.tensor([1.0, 0.0], device="cuda")
    assert votes.told(asked) == [False, False]
    assert votes.told(torch.zeros_like(asked)) == [True, False]
    assert Votes(CPU).told(asked.cpu()) == [True, False]
