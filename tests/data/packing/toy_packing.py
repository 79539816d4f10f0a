"""A source whose images are counted as they are loaded, and a packer that can be killed."""

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from toy_source import load, toy_source

from ray_diffusion.data.packing import pack as packing
from ray_diffusion.data.packing.output import REPORT
from ray_diffusion.data.packing.recipe import Recipe
from ray_diffusion.data.packing.source import Record, Source
from ray_diffusion.storage import Directory

CLASSES = ("many", "some", "few")
RECIPE = Recipe(examples_per_shard=10)
PER_TASK = 10
TASKS = 6 + 6  # to look at sixty images, and to write as many


def stripes() -> Source:
    """Sixty colour images of three classes, of 30, 20 and 10 images; 40 to train on, 20 not."""
    images = []
    for i in range(60):
        image = np.full((8, 8, 3), i, np.uint8)
        image[:, ::2, 1] = 255 - i
        images.append(image)
    labels = [0 if i < 30 else 1 if i < 50 else 2 for i in range(60)]
    source = toy_source("stripes", CLASSES, images, labels)
    records = [
        record._replace(split="train" if i % 3 else "val")
        for i, record in enumerate(source.records)
    ]
    return replace(source, records=records)


def content(url: str) -> dict[str, bytes | None]:
    """All files of a dataset but the report, which says where it is."""
    directory = Directory(url)
    names = [file.name for file in directory.walk() if file.name != REPORT]
    return {name: directory.read(name) for name in names}


class Killed(BaseException):
    """The process is gone."""


def die() -> None:
    """As power failures and the kernel's memory killer have it."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_in_process() -> None:
    raise Killed


def counting(record: Record, log: Path, last: int | None, killed: Callable[[], None]) -> bytes:
    """Load an image and write its key down; the ``last`` load does not come back."""
    with log.open("a") as file:
        print(record.key, file=file)
    if last is not None and len(log.read_text().splitlines()) == last:
        killed()
    return load(record)


def counted_stripes(
    log: Path, last: int | None = None, killed: Callable[[], None] = kill_in_process
) -> Source:
    return replace(stripes(), load=partial(counting, log=log, last=last, killed=killed))


if __name__ == "__main__":
    _, out, log, last = sys.argv
    packing.PER_TASK = PER_TASK
    packing.pack(counted_stripes(Path(log), int(last), die), RECIPE, out)
