"""What the tests of chaos have in common: a run's command, its checkpoints, its end."""

from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from local_cluster import TINY, Cluster

from ray_diffusion.tracking.curve import read_metrics

LAST = "checkpoint-000000012800"
Curve = list[tuple[int, float]]
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
    with suppress(FileNotFoundError):  # made to see whether it can be written, and removed again
        return sorted((storage / "digits").glob("checkpoint-*/manifest.json"))
    return []


def images_saved(storage: Path) -> int:
    """Where the newest checkpoint is, in images."""
    found = checkpoints(storage)
    return int(found[-1].parent.name[-12:]) if found else 0


def logged(storage: Path, metric: str = "train/loss") -> Curve:
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
    """One point of each metric and step, to the last digit: so each step read the same examples."""
    mine, theirs = (read_metrics(r / "spool" / "train.jsonl") for r in (run, undisturbed))
    of_machines = {metric for metric in theirs if metric.startswith("system/")}
    for metric in theirs.keys() - of_machines - {*CLOCKS, "train/loss"}:
        steps = [step for step, _ in theirs[metric]]
        assert [point for point in mine[metric] if point[0] in steps] == theirs[metric]
    assert_same_losses(mine["train/loss"], theirs["train/loss"], rel=1e-6)


def assert_same_losses(mine: Curve, theirs: Curve, rel: float) -> None:
    """One point of each step, and close values.

    A loss is the mean since the point before. A checkpoint that was asked for comes with a point of
    its own, which divides a mean in two, or into one and the whole if the checkpoint was not
    finished.
    """
    assert [step for step, _ in mine] == sorted({step for step, _ in mine})
    since = 0
    for step, value in theirs:
        parts = [(s, v) for s, v in mine if since < s <= step]
        lengths = [b - a for (a, _), (b, _) in pairwise([(since, 0.0), *parts])]
        mean = sum(v * length for (_, v), length in zip(parts, lengths, strict=True))
        assert dict(parts)[step] == pytest.approx(value, rel) or (
            mean / (step - since) == pytest.approx(value, rel)
        ), f"the loss at {step}"
        since = step
