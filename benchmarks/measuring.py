"""What the benchmarks of image quality share: how it is measured, and two processes to do it in."""

import json
import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from threading import Thread
from typing import Any

import torch

from ray_diffusion.data.training_set import open_split
from ray_diffusion.evaluation.features import features_of
from ray_diffusion.evaluation.report import evaluate
from ray_diffusion.pipeline import Pipeline

SEEDS = (0, 1, 2)  # of the images; the same for every model
PROCESSES = 2

Job = dict[str, Any]  # what json gives back as it was
Found = dict[str, float]


def quality(drawer: Pipeline) -> Found:
    """Draw three sets as large as the validation split, and measure them as ``evaluate`` does.

    Returns:
        ``fd``, ``class_accuracy`` ..., the means; ``fd sd`` ..., deviations over the sets; and
        ``fd real`` ..., the figures of the validation split.
    """
    data = drawer.config.data
    train, val = (open_split(data, split) for split in ("train", "val"))
    labels = drawer.labels(len(val))
    draws = [drawer.draw(labels, seed) for seed in SEEDS]
    report = evaluate(draws, labels, train, val, features_of("classifier", train))
    found: Found = {}
    for metric, figure in report.figures.items():
        name = metric.removeprefix("sample/")
        assert figure.spread is not None
        assert figure.floor is not None
        found |= {name: figure.value, f"{name} sd": figure.spread, f"{name} real": figure.floor}
    return found


def gather(work: Callable[[Job], Found], jobs: dict[str, Job], kept: Path) -> dict[str, Found]:
    """What each job finds, in processes of one thread.

    Args:
        work: Does a job; a function of a module.
        jobs: By name.
        kept: A file of what was found. A job that stands in it is not done again.

    Returns:
        The findings by name of the job.
    """
    memory = json.loads(kept.read_text()) if kept.exists() else {}
    missing = [name for name, job in jobs.items() if memory.get(name, {}).get("job") != job]
    kept.parent.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"  # before the processes load torch
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, spawn, _start) as pool:
        futures = {pool.submit(work, jobs[name]): name for name in missing}
        for count, future in enumerate(as_completed(futures), 1):
            name = futures[future]
            memory[name] = {"job": jobs[name], "found": future.result()}
            scratch = kept.with_suffix(".tmp")
            scratch.write_text(json.dumps(memory, indent=1))
            scratch.replace(kept)
            print(f"{count} of {len(missing)}: {name}", file=sys.stderr, flush=True)
    return {name: memory[name]["found"] for name in jobs}


def _start() -> None:
    """Begin a process that uses one thread, and ends if its parent is killed."""
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    Thread(target=end_with_parent, daemon=True).start()
