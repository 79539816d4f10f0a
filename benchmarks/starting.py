"""What it costs to start a trial of one worker, for ``sweep.py``."""

import io
import os
import tempfile
import time
from bisect import bisect
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any, NamedTuple

import psutil
import ray.tune

from ray_diffusion import config as configs
from ray_diffusion.cluster.alone import Alone
from ray_diffusion.cluster.board import Board
from ray_diffusion.cluster.connect import connected
from ray_diffusion.cluster.group import Group
from ray_diffusion.cluster.launch import launch
from ray_diffusion.cluster.plan import Plan, prepare
from ray_diffusion.cluster.sweeping.execution import ON_THE_HEAD
from ray_diffusion.config import Config
from ray_diffusion.config.sweep import Resources
from ray_diffusion.tracking.environment import Lineage

TRIALS = 4  # and one before them
LOOK_S = 0.05
ONE_STEP = [
    *("model.channels=8", "model.channel_mults=[1]", "model.attention_levels=[]"),
    *("model.blocks_per_level=1", "sampler.num_inference_steps=5"),
    *("data.global_batch_size=64", "training.total_images=64", "training.log_every_images=64"),
]


def settings(out: Path) -> list[str]:
    """What keeps a benchmark's runs, and what is told of them, below a directory."""
    return [
        f"run.storage_url={out}",
        f"tracking.uri=sqlite:///{out}/mlflow.db",
        "tracking.metrics_port=0",
    ]


def mark(file: Path, name: str) -> None:
    with file.open("a") as marks:
        marks.write(f"{name} {time.time()}\n")


class Marks(Board):
    """A board that writes down when the first step is told of."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file, self._stepped = file, False

    def post(self, facts: dict[str, Any]) -> None:
        """Replace what is known of the run's progress."""
        super().post(facts)
        if "images_seen" in facts and not self._stepped:
            self._stepped = True
            mark(self._file, "stepped")


class Way(NamedTuple):
    """How a trial is trained: what Tune holds for its process, and who trains.

    Attributes:
        held: Resources.
        group: Of a plan, and the file that tells of its course.
    """

    held: dict[str, float]
    group: Callable[[Plan, Path], Alone | Group]


WAYS = {
    "alone": Way({"CPU": 1}, lambda plan, file: Alone(plan.config, Marks(file))),
    "in Ray Train": Way(
        ON_THE_HEAD, lambda plan, file: Group(plan.config, plan.identity.name, Marks, file)
    ),
}


def start() -> None:
    """Run trials of one step in both ways, and compare."""
    os.environ.pop("RAY_ADDRESS", None)  # the meter sees what descends from this process
    with tempfile.TemporaryDirectory() as scratch, connected():
        meter = Meter()
        found = {way: costs(way, Path(scratch), meter) for way in WAYS}
    print(
        f"\n{'a trial of one step':<38}" + "".join(f"{way:>14}" for way in WAYS) + f"{'ratio':>8}"
    )
    for row in Cost._fields:
        cells = [median(getattr(cost, row) for cost in found[way]) for way in WAYS]
        ratio = f"{cells[1] / cells[0]:.1f}" if cells[0] else "-"
        print(
            f"{row.replace('_', ' '):<38}" + "".join(f"{x:>14.1f}" for x in cells) + f"{ratio:>8}"
        )


class Spent(NamedTuple):
    """What the processes have come to at a moment."""

    at: float
    cpu_s: float
    processes: int


class Meter:
    """Processor time of this process and all below it, without what looking takes.

    Of a process that ends between two looks, what it used since the first of them is missed.
    """

    def __init__(self) -> None:
        self._line = [Spent(0, 0, 0)]
        Thread(target=self._look, daemon=True).start()

    def at(self, moment: float) -> Spent:
        """What had been spent at a moment since the Unix epoch."""
        return self._line[bisect(self._line, moment, key=lambda spent: spent.at) - 1]

    def _look(self) -> None:
        me, known = psutil.Process(), dict[psutil.Process, float]()
        while True:
            for process in (me, *me.children(recursive=True)):
                with suppress(psutil.Error):  # it has ended
                    times = process.cpu_times()
                    known[process] = times.user + times.system
            cpu_s = sum(known.values()) - time.thread_time()
            self._line.append(Spent(time.time(), cpu_s, len(known)))
            time.sleep(LOOK_S)  # between two looks


class Cost(NamedTuple):
    """What a trial took since the end of the one before, in the order of the table.

    The launch is what differs: before it, Tune has started a process that imports this package.
    """

    cpu_s_until_the_first_step: float
    of_these_in_the_launch: float
    seconds_until_the_first_step: float
    cpu_s_until_the_end: float
    processes_started: float


def costs(way: str, scratch: Path, meter: Meter) -> list[Cost]:
    """What each trial costs but the first; Tune runs one at a time, as ``execution`` has it."""
    file = scratch / f"{way}.txt"
    config = configs.load([*ONE_STEP, *settings(scratch)])
    config = configs.override(config, Resources().cluster)
    trainable = ray.tune.with_parameters(one_step, way=way, file=file, config=config)
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(trainable, WAYS[way].held),
        param_space={"number": ray.tune.grid_search(list(range(TRIALS + 1)))},
        # As sweeps do it: what is imported serves the next trial, too.
        tune_config=ray.tune.TuneConfig(max_concurrent_trials=1, reuse_actors=way == "alone"),
        run_config=ray.tune.RunConfig(storage_path=str(scratch / "ray"), verbose=0),
    )
    with redirect_stdout(io.StringIO()):  # Tune has a table
        results = tuner.fit()
    for error in results.errors:
        raise error
    marks: dict[str, list[Spent]] = {"launched": [], "stepped": [], "ended": []}
    for line in file.read_text().splitlines():
        name, moment = line.split()
        marks[name].append(meter.at(float(moment)))
    found = []
    for number in range(1, TRIALS + 1):
        began, ended = marks["ended"][number - 1], marks["ended"][number]
        stepped, launched = marks["stepped"][number], marks["launched"][number]
        found.append(
            Cost(
                cpu_s_until_the_first_step=stepped.cpu_s - began.cpu_s,
                of_these_in_the_launch=stepped.cpu_s - launched.cpu_s,
                seconds_until_the_first_step=stepped.at - began.at,
                cpu_s_until_the_end=ended.cpu_s - began.cpu_s,
                processes_started=ended.processes - began.processes,
            )
        )
    return found


def one_step(chosen: dict[str, int], way: str, file: Path, config: Config) -> None:
    """A trial, but for the judge that a sweep's trials report to."""
    plan = prepare(
        configs.override(config, {"run.name": f"{way[:2]}-{chosen['number']}"}), Lineage()
    )
    mark(file, "launched")
    launch(plan, plan.config, WAYS[way].group(plan, file))
    mark(file, "ended")
