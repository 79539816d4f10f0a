"""What the tests of chaos have in common: a run's command, its checkpoints, its end."""

from pathlib import Path

import pytest
from local_cluster import TINY, Cluster

from ray_diffusion.tracking.curve import read_metrics

LAST = "checkpoint-000000012800"
CLOCKS = ("train/images_per_second", "train/data_wait_fraction", "train/mfu")
ENDLESS = [
    "optim.lr_schedule=constant",  # or it would depend on an end that is not known
    "training.total_images=1_000_000_000",
    "training.validate_every_images=1_000_000_000",
    "training.checkpoint_every_images=12_800",
]


def command(storage: Path, *more: str) -> list[str]:
    return [
        "ray_diffusion.train",
        *TINY,
        "cluster.num_workers=2",
        f"run.storage_url={storage}",
        *more,
    ]


def checkpoints(storage: Path) -> list[Path]:
    return sorted((storage / "digits").glob("checkpoint-*/manifest.json"))


def images_saved(storage: Path) -> int:
    """Where the newest checkpoint is, in images."""
    found = checkpoints(storage)
    return int(found[-1].parent.name[-12:]) if found else 0


def logged(storage: Path, metric: str = "train/loss") -> list[tuple[int, float]]:
    """The points of a metric until now: images seen, value."""
    spool = storage / "digits/spool/train.jsonl"
    return read_metrics(spool).get(metric, []) if spool.exists() else []


def straight_to(images: int, cluster: Cluster, storage: Path, *more: str) -> Path:
    """The directory of an endless run that nothing happens to, and that ends nevertheless."""
    done = cluster.run(*command(storage, *ENDLESS, *more, f"training.total_images={images}"))
    assert done.returncode == 0, done.stderr
    return storage / "digits"


def assert_same_end(run: Path, undisturbed: Path, last: str = LAST) -> None:
    """Weights, averages and optimizer, to the bit."""
    for name in ("model.safetensors", "ema.safetensors", "optimizer.safetensors"):
        assert (run / last / name).read_bytes() == (undisturbed / last / name).read_bytes()


def assert_same_curves(run: Path, undisturbed: Path) -> None:
    """One point of each metric and step, to the last digit: so each step read the same examples.

    A checkpoint that was asked for comes with a point of its own, which divides a mean in two.
    """
    mine, theirs = (read_metrics(r / "spool" / "train.jsonl") for r in (run, undisturbed))
    for metric in theirs.keys() - CLOCKS:
        steps = [step for step, _ in theirs[metric]]
        if metric == "train/loss" and len(mine[metric]) > len(steps):
            assert means(mine[metric], steps) == pytest.approx(means(theirs[metric], steps), 1e-6)
        else:
            assert [point for point in mine[metric] if point[0] in steps] == theirs[metric]


def means(points: list[tuple[int, float]], steps: list[int]) -> list[float]:
    """The means between steps of a curve each point of which is the mean since the one before."""
    found, total, seen, start = [], 0.0, 0, 0
    for step, value in points:
        assert step > seen, f"a second point at {step}"
        total, seen = total + value * (step - seen), step
        if step in steps:
            found.append(total / (step - start))
            total, start = 0.0, step
    return found
