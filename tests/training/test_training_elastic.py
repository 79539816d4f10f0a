"""The number of workers decides who reads an example, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from elastic_workers import work
from toy import BATCH

from ray_diffusion import config
from ray_diffusion.config import Config
from ray_diffusion.training.step import micro_batches

STEPS = 10


@pytest.fixture(scope="module")
def directory(run: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("elastic")
    uneven = config.override(run, {"data.global_batch_size": BATCH + 1})
    uneven = config.override(uneven, {"training.total_images": STEPS * (BATCH + 1)})
    torch.multiprocessing.spawn(work, (directory, uneven), nprocs=4)
    return directory


@pytest.fixture(scope="module")
def seen(directory: Path) -> list[dict[str, Any]]:
    return [json.loads((directory / f"seen-{rank}.json").read_text()) for rank in range(4)]


@pytest.mark.parametrize("phase", ["1", "2", "4", "elastic"])
def test_each_step_reads_its_examples_once_whoever_reads_them(seen: list[dict], phase: str):
    batch = BATCH + 1
    for step in range(STEPS):
        steps = [of_rank[phase].get(str(step * batch)) for of_rank in seen]
        read = sorted(position for one in steps if one for position in one["read"])
        assert read == list(range(step * batch, (step + 1) * batch))


def test_two_then_one_then_two_workers_each_had_their_turn(seen: list[dict]):
    busy = [[rank for rank in (0, 1, 2, 3) if str(step * (BATCH + 1)) in seen[rank]["elastic"]]
            for step in range(STEPS)]  # fmt: skip
    assert busy == [[0, 1]] * 3 + [[0]] * 3 + [[0, 1]] * 4


@pytest.mark.parametrize("phase", ["2", "4", "elastic"])
def test_losses_are_those_of_one_worker_but_for_rounding(seen: list[dict], phase: str):
    alone, together = ([step["loss"] for step in seen[0][p].values()] for p in ("1", phase))
    assert len(together) == STEPS
    # The same numbers added in another order; Adam lets them drift apart from step to step.
    assert together[:2] == pytest.approx(alone[:2], rel=1e-6)
    assert together == pytest.approx(alone, rel=1e-3)


@pytest.mark.parametrize("most", [None, 1, 3, 8, 100])
@pytest.mark.parametrize(("batch", "world"), [(7, 1), (7, 2), (8, 4), (33, 4)])
def test_micro_batches_are_a_workers_part_in_as_many_pieces_on_each(
    batch: int, world: int, most: int | None
):
    parts = [micro_batches(batch, rank, world, most) for rank in range(world)]
    assert len({len(of_rank) for of_rank in parts}) == 1
    places = [place for of_rank in parts for piece in of_rank for place in piece]
    assert places == list(range(batch))
    sizes = [len(piece) for of_rank in parts for piece in of_rank]
    assert min(sizes) >= 1
    if most is not None:
        assert max(sizes) <= most + 1
