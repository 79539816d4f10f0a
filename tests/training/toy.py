"""Runs that take a moment: a tiny network on small made-up images, and what became of them."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from tiny_config import RESOLVED, TINY
from torch import Tensor
from toy_source import toy_source

from ray_diffusion import config
from ray_diffusion.config import Config
from ray_diffusion.data.packing.source import Source
from ray_diffusion.storage import Directory
from ray_diffusion.training.checkpoint import name_of
from ray_diffusion.training.harness import Harness, in_directory
from ray_diffusion.training.loop import loop
from ray_diffusion.training.retention import Keep

BATCH = 32
CPU = torch.device("cpu")
CLOCKS = ("train/images_per_second", "train/data_wait_fraction", "train/mfu")


def stripes(offset: int = 0) -> Source:
    """400 images of 8x8 pixels in ten classes, by arithmetic alone: the same on every machine.

    Every fourth image of a class is for validation.
    """
    i, j = np.mgrid[:8, :8]
    images = [(25 * (n % 10) + 17 * i + 5 * (n % 7) * j + offset) % 256 for n in range(400)]
    source = toy_source("stripes", "abcdefghij", images)
    records = [
        record._replace(split="train" if n // 10 % 4 else "val")
        for n, record in enumerate(source.records)
    ]
    return replace(source, records=records)


def configured(dataset: Path, **keys: object) -> Config:
    """Ten steps that validate at 5 and 10, and save also at 3, 6 and 9."""
    tiny = {
        "data.dataset_url": str(dataset),
        "data.global_batch_size": BATCH,
        **TINY,
        **RESOLVED,
        "sampler.num_inference_steps": 2,
        "training.total_images": 10 * BATCH,
        "training.log_every_images": BATCH,
        "training.validate_every_images": 5 * BATCH,
        "training.checkpoint_every_images": 3 * BATCH,
    }
    return config.override(Config(), tiny | keys)


@dataclass
class World:
    """A run's directory, and all that its loops told the world.

    Attributes:
        path: The run's directory.
        points: Every value logged but a clock's, by images seen and metric.
        twice: Values logged again, with what was logged before: a resumed run repeats itself.
        warnings: What was said about damaged checkpoints.
        shown: Images seen at each showing of pictures.
    """

    path: Path
    points: dict[tuple[int, str], float] = field(default_factory=dict)
    twice: list[tuple[float, float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    shown: list[int] = field(default_factory=list)

    @property
    def run(self) -> Directory:
        return Directory(str(self.path))

    def harness(self, keep: int = 2, should_stop: Callable[[], bool] = lambda: False) -> Harness:
        def log(images_seen: int, metrics: Mapping[str, float]) -> None:
            for name, value in metrics.items():
                if name in CLOCKS:
                    continue
                at = images_seen, name
                if at in self.points:
                    self.twice.append((self.points[at], value))
                self.points[at] = value

        def show(images_seen: int, pictures: Mapping[str, Tensor]) -> None:
            self.shown.append(images_seen)

        return in_directory(self.run, Keep(keep), log, show, should_stop, self.warnings.append)

    def train(self, run: Config, keep: int = 2, stop_after: int | None = None) -> dict:
        """Train, or go on; ``stop_after`` so many steps."""
        steps = iter(range(10**9))
        asked = (lambda: False) if stop_after is None else (lambda: next(steps) + 1 >= stop_after)
        return loop(run, self.harness(keep, asked), CPU)

    def weights(self) -> dict[str, bytes]:
        """The bytes of the newest checkpoint's weights."""
        newest = self.path / self.run.names()[-1]
        return {
            name: (newest / name).read_bytes() for name in ("model.safetensors", "ema.safetensors")
        }

    @property
    def losses(self) -> list[float]:
        """Every value of the training loss."""
        return [value for (_, name), value in self.points.items() if name == "train/loss"]


class Killed(Exception):
    """The process is gone."""


def killed_at(world: World, call: int) -> Harness:
    """A harness that dies at its ``call``-th use; in ``save``, halfway through the upload."""
    harness, calls = world.harness(), iter(range(1, 10**9))

    def log(images_seen: int, metrics: Mapping[str, float]) -> None:
        if next(calls) == call:
            raise Killed
        harness.log(images_seen, metrics)

    def save(directory: Path, images_seen: int, group: None) -> None:
        if next(calls) == call:
            torn = world.path / name_of(images_seen)
            torn.mkdir(parents=True, exist_ok=True)  # killed at this very save before
            shutil.copy(directory / "model.safetensors", torn)
            raise Killed
        harness.save(directory, images_seen, group)

    def should_stop() -> bool:
        if next(calls) == call:
            raise Killed
        return harness.should_stop()

    return replace(harness, log=log, save=save, should_stop=should_stop)
