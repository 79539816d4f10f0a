"""What is measured of a run for Prometheus: by its workers, and by its driver."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray_diffusion.cluster.board import Board, RemoteBoard
from ray_diffusion.config import Config
from ray_diffusion.models.ema import decay_at
from ray_diffusion.tracking.metrics import Meter, Report
from ray_diffusion.tracking.system import Sampler
from ray_diffusion.tracking.tracker import Tracker

PERIOD_S = 1.0  # of a worker's posts
SHOWN = {
    "train/loss": "loss",
    "train/grad_norm": "grad_norm",
    "train/lr": "lr",
    "train/mfu": "mfu",
    "train/images_per_second": "images_per_second",
}


class WorkerMeter:
    """Measures one worker, and posts what it found to the board, at most once a second.

    No call waits for anything. Of all methods the workers behind the first call ``step`` alone.

    Args:
        board: The launch's board.
        rank: Which worker.
        config: The resolved configuration.
        sampler: Looks at the machine; one of its own if None.
    """

    def __init__(
        self, board: Board | RemoteBoard, rank: int, config: Config, sampler: Sampler | None = None
    ) -> None:
        self._board, self._rank, self._config = board, rank, config
        self._meter = Meter()
        self._posted_at = self._stepped_at = self._steps_since_log = 0.0
        self._tracker: Tracker | None = None
        self._sampler = sampler or Sampler()
        self._system: dict[str, float] = {}

    def follow(self, tracker: Tracker) -> None:
        """Measure the run's first worker, and its tracker, from now on."""
        self._tracker = tracker
        self._meter.set("checkpoint_age_seconds", time.time())
        # Prometheus sees a counter rise only from a value that it has seen.
        self._meter.add("nonfinite_steps_total", 0)
        self._meter.add("data_wait_seconds_total", 0)

    def step(self) -> None:
        """A step begins."""
        now = time.monotonic()
        if self._tracker is not None and self._stepped_at:
            self._meter.observe("step_seconds", now - self._stepped_at)
        self._stepped_at = now
        self._steps_since_log += 1
        self._meter.set("step_age_seconds", time.time())
        if now - self._posted_at >= PERIOD_S:
            self.post()

    def logged(self, images_seen: int, metrics: Mapping[str, float]) -> None:
        """The loop has logged metrics."""
        for name, family in SHOWN.items():
            if name in metrics:
                self._meter.set(family, metrics[name])
        self._meter.add("nonfinite_steps_total", metrics.get("train/nonfinite_steps", 0.0))
        if "train/images_per_second" not in metrics:
            return  # a validation
        batch, ema = self._config.data.global_batch_size, self._config.ema
        speed = metrics["train/images_per_second"]
        seconds = self._steps_since_log * batch / speed
        self._steps_since_log = 0
        waited = metrics["train/data_wait_fraction"] * seconds
        self._meter.add("data_wait_seconds_total", waited)
        decay = decay_at(max(0, images_seen // batch - 1), ema.decay, ema.warmup_steps)
        self._meter.set("ema_decay", decay)
        interval = self._config.training.checkpoint_every_images / speed
        self._meter.set("checkpoint_interval_seconds", interval)

    @contextmanager
    def publishing(self, checkpoint: Path) -> Iterator[None]:
        """Around what publishes a checkpoint that lies in a local directory."""
        size = sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())
        started = time.monotonic()
        yield
        self._meter.observe("checkpoint_seconds", time.monotonic() - started)
        self._meter.set("checkpoint_bytes", size)
        self._meter.set("checkpoint_age_seconds", time.time())

    def post(self) -> None:
        """Post what is known now."""
        self._posted_at = time.monotonic()
        if self._tracker is not None:
            self._meter.set("tracking_backlog_points", self._tracker.backlog)
            self._meter.set("tracking_errors_total", self._tracker.errors)
            self._meter.set("tracking_seconds_total", self._tracker.blocked_s)
        if found := self._sampler.sample():
            self._system = found
            for name, value in machine(found).items():
                self._meter.set(name, value)
        self._board.measured(self._rank, self._meter.snapshot())

    def system(self) -> dict[str, float]:
        """The newest sample of the machine, for the tracker; nothing if it was told before."""
        found, self._system = self._system, {}
        return found


def machine(system: Mapping[str, float]) -> dict[str, float]:
    """What a sample says in Prometheus' base units.

    Args:
        system: As ``Sampler.sample`` found it.

    Returns:
        Values by family; of GPUs the mean of shares and the sum of memory.
    """
    found = {
        "cpu_utilization_ratio": system["system/cpu_utilization_percentage"] / 100,
        "memory_used_bytes": system["system/system_memory_usage_megabytes"] * 1e6,
    }
    gpus = {name: value for name, value in system.items() if name.startswith("system/gpu_")}
    shares = [v for name, v in gpus.items() if name.endswith("_utilization_percentage")]
    megabytes = [v for name, v in gpus.items() if name.endswith("_memory_usage_megabytes")]
    if shares and megabytes:
        found["gpu_utilization_ratio"] = sum(shares) / len(shares) / 100
        found["gpu_memory_used_bytes"] = sum(megabytes) * 1e6
    return found


class LaunchMeter:
    """Measures what the driver knows of a run, and puts it together with what workers posted.

    Args:
        use_gpu: Whether each worker holds a GPU.
        clock: Seconds that never go back.
    """

    def __init__(self, use_gpu: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._use_gpu, self._clock = use_gpu, clock
        self._gpu_hours, self._looked_at = 0.0, clock()
        self._images = 0

    def report(self, facts: Mapping[str, Any]) -> Report:
        """What Prometheus is to be told.

        Args:
            facts: What the board says.

        Returns:
            The snapshots of the driver and all workers.
        """
        now, world = self._clock(), facts.get("workers", 0)
        self._gpu_hours += world * self._use_gpu * (now - self._looked_at) / 3600
        self._looked_at = now
        # Prometheus would take a way back to a checkpoint for a new start, from zero.
        self._images = max(self._images, facts.get("images_seen", 0))
        own = {
            "images_total": self._images,
            "world_size": world,
            "gpu_hours_total": self._gpu_hours,
        }
        restarts = [({"reason": r}, {"restarts_total": n}) for r, n in facts["reasons"].items()]
        workers = [({"rank": str(rank)}, found) for rank, found in facts["measured"].items()]
        return [({}, own), *restarts, *workers]
