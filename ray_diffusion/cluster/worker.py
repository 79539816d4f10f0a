"""What one Ray Train worker does: run the loop, with the outside world in its hands."""

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import ray
import ray.train
import ray.train.torch
import torch
from PIL import Image
from ray.util import get_current_placement_group
from torch import Tensor
from torch.distributed import ProcessGroup

from ray_diffusion.cluster.board import Board, RemoteBoard
from ray_diffusion.cluster.environment import applied
from ray_diffusion.cluster.files import RunFiles, fetched
from ray_diffusion.cluster.lineage import TAIL, run_directory, spool_directory
from ray_diffusion.cluster.metering import WorkerMeter
from ray_diffusion.cluster.notice import told_to_go
from ray_diffusion.cluster.stall import watched
from ray_diffusion.config import Config
from ray_diffusion.diffusion.profile import PROFILE_LEVELS
from ray_diffusion.errors import Diverged, Preempted, RayDiffusionError
from ray_diffusion.storage import Directory
from ray_diffusion.tracking.curve import plot_loss
from ray_diffusion.tracking.identity import RunIdentity
from ray_diffusion.tracking.tracker import Tracker
from ray_diffusion.training.harness import Harness, in_directory
from ray_diffusion.training.loop import loop
from ray_diffusion.training.retention import Keep

RAISED_BY_ALL = (Diverged, Preempted)  # by every worker, at the same step


@dataclass(frozen=True)
class Assignment:
    """What a launch hands to each worker.

    Attributes:
        config: The resolved configuration.
        identity: The MLflow run.
        run_id: Its id, or None if MLflow could not be reached.
        board: The actor that links workers and driver.
        environment: Variables of the driver's environment; not to be printed.
    """

    config: Config
    identity: RunIdentity
    run_id: str | None
    board: Any
    environment: dict[str, str] = field(repr=False)


def train(fields: dict[str, Any]) -> None:
    """Train as one worker of the group.

    What a restart of the workers would not cure is told to the board instead of being raised.

    Args:
        fields: The fields of an ``Assignment``; Ray Train hands on dictionaries alone.
    """
    assignment = Assignment(**fields)
    board = RemoteBoard(assignment.board)
    if board.failure() is not None:
        return  # restarted only because one worker had to raise, see below
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    node, placement = ray.get_runtime_context().get_node_id(), get_current_placement_group()
    board.started(rank, world, node, placement)
    try:
        train_one(assignment, board, rank, ray.train.torch.get_device())
    except RayDiffusionError as error:
        board.fail(error)
        if world > 1 and not isinstance(error, RAISED_BY_ALL):
            raise  # the others wait for this worker, and only Ray can end them


def train_one(
    assignment: Assignment, board: Board | RemoteBoard, rank: int, device: torch.device
) -> None:
    """Train as one process, to the end.

    Args:
        assignment: What to train.
        board: Where it tells of its progress, and is told to stop.
        rank: Which worker it is; the first one records.
        device: Where to train.

    Raises:
        RayDiffusionError: The reason, if the run did not reach its end.
    """
    torch.set_num_threads(assignment.config.cluster.cpus_per_worker or 1)
    with applied(assignment.environment, assignment.config.run.storage_options):
        _train(assignment, board, rank, device)


def _train(
    assignment: Assignment, board: Board | RemoteBoard, rank: int, device: torch.device
) -> None:
    config = assignment.config
    run, training = run_directory(config), config.training
    keep = Keep(
        training.keep_checkpoints, training.keep_best_checkpoints, training.keep_every_images
    )

    def keep_stacks(stacks: str) -> None:
        name = f"stacks/{time.strftime('%Y%m%d-%H%M%S')}-worker-{rank}.txt"
        run.write(name, stacks)
        message = f"worker {rank} made no step for {config.cluster.stall_timeout_s:g} s; its "
        board.expect("stall")
        board.warn(f"{message}stack is in {run.url}/{name}")
        board.settle()

    meter = WorkerMeter(board, rank, config)
    with watched(config.cluster.stall_timeout_s, keep_stacks) as pulse:

        def stop_at_notice() -> bool:
            pulse.beat()
            meter.step()
            return told_to_go()

        if rank > 0:
            silent = in_directory(run, keep, warn=lambda message: None)
            silent = replace(silent, should_stop=stop_at_notice, pausing=pulse.pause)
            loop(config, silent, device)
            return
        with _Record(assignment, board, run, meter) as record:
            harness = replace(
                record.harness(keep),
                should_stop=lambda: stop_at_notice() or board.requested()[0],
                should_save=_Saves(board).due,
                pausing=pulse.pause,
            )
            record.finish(loop(config, harness, device)["profile"])


class _Saves:
    """Counts the checkpoints that the driver wishes, each of them once."""

    def __init__(self, board: Board | RemoteBoard) -> None:
        self._board = board
        _, self._saved = board.requested()  # what was wished of the workers before these

    def due(self) -> bool:
        """Whether there is a new wish."""
        _, wished = self._board.requested()
        new, self._saved = wished > self._saved, wished
        return new


class _Record:
    """What the first worker writes down: metrics, pictures, progress, at the end the loss curve."""

    def __init__(
        self,
        assignment: Assignment,
        board: Board | RemoteBoard,
        run: Directory,
        meter: WorkerMeter,
    ) -> None:
        self._config, self._board, self._run = assignment.config, board, run
        self._spools = spool_directory(self._config, assignment.identity)
        self._tracker = Tracker(
            self._spools, "train", assignment.identity, run_id=assignment.run_id
        )
        self._files = RunFiles(run, self._spools, self._tracker)
        self._meter = meter
        meter.follow(self._tracker)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        shipped = self._tracker.finish()
        self._meter.post()
        self._board.post({"shipped": shipped})
        self._board.settle()

    def harness(self, keep: Keep) -> Harness:
        """A harness that records, and keeps some checkpoints."""
        board = self._board
        harness = in_directory(self._run, keep, self._log, self._show, warn=board.warn)

        def save(directory: Path, images_seen: int, group: ProcessGroup | None) -> None:
            self._tracker.sync()  # metrics up to a checkpoint are as durable as the checkpoint
            if self._run.local_path() is None:  # else the spool is beside the checkpoint
                (directory / TAIL).write_bytes(self._tracker.tail(images_seen))
            with self._meter.publishing(directory):
                harness.save(directory, images_seen, group)
            board.post({"checkpoint_at": time.time()})

        def restore(into: Path) -> bool:
            found = harness.restore(into)
            if (tail := into / TAIL).exists():
                here = partial(fetched, run=self._run, into=self._spools)
                self._tracker.adopt(tail.read_bytes(), here)
            return found

        return replace(harness, restore=restore, save=save)

    def finish(self, profile: list[float]) -> None:
        """Draw the loss curve, and write down the last validation's profile if it has one."""
        curve = plot_loss(self._spools / "train.jsonl", self._config.run.name)
        self._files.write("loss.png", curve)
        if not profile:
            return
        rows = [f"{level},{e!r}" for level, e in zip(PROFILE_LEVELS, profile, strict=True)]
        self._files.write("profile.csv", "\n".join(["logsnr,eps_mse", *rows, ""]))

    def _log(self, images_seen: int, metrics: Mapping[str, float]) -> None:
        self._tracker.log(images_seen, {**metrics, **self._meter.system()})
        self._meter.logged(images_seen, metrics)
        if "val/score" in metrics:
            self._board.post({"validated": dict(metrics), "images_seen": images_seen})
        if "train/loss" in metrics:
            facts = {
                "images_seen": images_seen,
                "total_images": self._config.training.total_images,
                "loss": metrics["train/loss"],
                "images_per_second": metrics["train/images_per_second"],
                "data_wait_fraction": metrics["train/data_wait_fraction"],
            }
            self._board.post(facts)

    def _show(self, images_seen: int, pictures: Mapping[str, Tensor]) -> None:
        for weights, picture in pictures.items():
            suffix, png = "" if weights == "ema" else f"-{weights}", io.BytesIO()
            Image.fromarray(picture.numpy()).save(png, "png")
            self._files.write(f"samples/{images_seen:012d}{suffix}.png", png.getvalue())
