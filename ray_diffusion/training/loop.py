"""The training loop."""

import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from ray_diffusion.config import Config
from ray_diffusion.data.reader import Batch
from ray_diffusion.data.stream import Stream, batches
from ray_diffusion.data.training_set import open_split, open_training_set
from ray_diffusion.errors import Diverged, Preempted
from ray_diffusion.storage import Directory
from ray_diffusion.training import checkpoint
from ray_diffusion.training.collective import plain, rank_and_world
from ray_diffusion.training.devices import tune
from ray_diffusion.training.flops import peak_images_per_second
from ray_diffusion.training.harness import Harness
from ray_diffusion.training.saving import Saver
from ray_diffusion.training.state import callable_alone, initial_state
from ray_diffusion.training.step import StepResult, train_step
from ray_diffusion.training.tasks import task_of
from ray_diffusion.training.votes import Votes


class _Interval:
    """Means since the last log line. A log line precedes each checkpoint, so none spans one.

    Of a step that was skipped neither loss nor gradient norm is told.
    """

    def __init__(self, peak_images_per_second: float) -> None:
        self.peak = peak_images_per_second
        self.steps, self.images, self.waited = 0, 0, 0.0
        self.loss: Tensor | float = 0.0
        self.bad: Tensor | float = 0.0
        self.skipped: Tensor | float = 0.0
        self.started = time.perf_counter()

    def add(self, result: StepResult, images: int, waited: float) -> None:
        self.steps += 1
        self.images += images
        self.waited += waited
        # These stay on the device: no wait for it in the step.
        self.loss = self.loss + result.loss.masked_fill(result.skipped.bool(), 0)
        self.bad = self.bad + result.bad_examples
        self.skipped = self.skipped + result.skipped

    def metrics(self, last: StepResult) -> dict[str, float]:
        loss, skipped = float(self.loss), float(self.skipped)  # waits for the device
        seconds = time.perf_counter() - self.started  # so read no clock before it
        found = {
            "train/lr": last.lr,
            "train/images_per_second": self.images / seconds,
            "train/mfu": self.images / seconds / self.peak,
            "train/data_wait_fraction": self.waited / seconds,
        }
        if skipped < self.steps:
            found["train/loss"] = loss / (self.steps - skipped)
        if not last.skipped:
            found["train/grad_norm"] = float(last.grad_norm)
        counts = {"train/bad_examples": float(self.bad), "train/nonfinite_steps": skipped}
        return found | {name: count for name, count in counts.items() if count}


def _diverged(what: str, images_seen: int) -> Diverged:
    return Diverged(
        f"{what} after {images_seen:,} images; "
        "lower optim.lr or raise optim.warmup_images, under another run.name"
    )


def _check_finite(metrics: dict[str, float], images_seen: int) -> None:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise _diverged(f"{name} is {value}", images_seen)


class _Training:
    """One run of the loop: the data, the state, and what happens at intervals."""

    def __init__(self, config: Config, harness: Harness, device: torch.device) -> None:
        self.config, self.harness, self.device = config, harness, device
        self.rank, self.world = rank_and_world()
        quarantine_url = f"{config.run.url}/quarantine"  # of examples that could not be used
        self.train = open_training_set(config.data, quarantine_url)
        self.val = open_split(config.data, "val", quarantine_url)
        self.task = task_of(config, device, self.val)
        with tempfile.TemporaryDirectory() as scratch:
            found = harness.restore(Path(scratch))
            begins = not found and config.run.init_from is not None
            self.state = initial_state(
                config, device, Directory(config.run.url) if begins else None
            )
            if found:
                allow = config.run.allow
                self.train = checkpoint.load(Path(scratch), self.state, self.train, allow)

    def run(self) -> None:
        """Train to the end of the budget, or until a worker is asked to stop."""
        config, data = self.config, self.config.data
        stream = Stream(
            self.train,
            config.run.seed,
            self.state.images_seen,
            data.global_batch_size,
            self.rank,
            self.world,
            data.horizontal_flip,
        )
        pin_memory = self.device.type == "cuda"
        found = batches(stream, data.workers, pin_memory)
        saving = Saver(self.harness.save, self.state.gradients.group)
        with closing(found), closing(self.val), saving as saver:
            self._train(found, saver)

    def _train(self, batches: Iterator[Batch], saver: Saver) -> None:
        peak = self.world * peak_images_per_second(self.config, self.device)
        state, interval, votes = self.state, _Interval(peak), Votes(self.device)
        nonfinite, due = 0, False  # steps in a row, since this process began; a checkpoint
        while not self._done():
            asked = time.perf_counter()
            with record_function("data"):
                batch = next(batches)
            waited = time.perf_counter() - asked
            stop, save = self.harness.should_stop(), self.harness.should_save()
            result = train_step(state, batch, self.task, stop, save)
            interval.add(result, self.config.data.global_batch_size, waited)
            saver.check()
            stopping, saving, skipped = votes.told(result.votes)
            nonfinite = nonfinite + 1 if skipped else 0
            if nonfinite > self.config.training.max_nonfinite_steps:
                what = f"{nonfinite} steps in a row without a finite loss and gradient"
                raise _diverged(what, state.images_seen)
            stopping = stopping and not self._done()
            due = due or self._save_due()
            # Where steps fail, the weights may be ruined already: they must not push out good ones.
            saving = saving or stopping or self._done() or (due and not skipped)
            due = due and not saving
            validating = self._validation_due()
            if saving or validating:
                self.harness.pausing()
            if saving or validating or self._due(self.config.training.log_every_images):
                self._log(interval.metrics(result) | {"train/workers": float(self.world)})
                score = self._validate() if validating else None
                if saving:
                    self._save(saver, score)
                interval = _Interval(peak)
            if stopping:
                saver.wait()
                raise Preempted(
                    f"stopped after {state.images_seen:,} images, with a checkpoint; "
                    "the same command continues"
                )

    def _due(self, every: int) -> bool:
        """Whether this step crossed a multiple of ``every`` images, or was the last."""
        seen, batch = self.state.images_seen, self.config.data.global_batch_size
        return self._done() or seen // every > (seen - batch) // every

    def _done(self) -> bool:
        return self.state.images_seen >= self.config.training.total_images

    def _save_due(self) -> bool:
        # Validations are saved too: what they found (`best`) must not be lost.
        return self._due(self.config.training.checkpoint_every_images) or self._validation_due()

    def _validation_due(self) -> bool:
        return self._due(self.config.training.validate_every_images)

    def _log(self, metrics: dict[str, float]) -> None:
        _check_finite(metrics, self.state.images_seen)
        self.state.metrics |= metrics
        if self.rank == 0:
            self.harness.log(self.state.images_seen, metrics)

    def _validate(self) -> float:
        state, config = self.state, self.config
        networks = {
            name: callable_alone(network, config)
            for name, network in {"ema": state.average, "raw": state.network}.items()
        }
        found = self.task.validate(networks["ema"])
        metrics = found.metrics
        _check_finite(metrics, state.images_seen)
        state.metrics |= metrics
        state.profile = found.profile
        if metrics["val/score"] <= state.best.get("val/score", math.inf):
            state.best = metrics | {"images_seen": state.images_seen}
        if self.rank == 0:
            self.harness.log(state.images_seen, metrics)
            self.harness.show(state.images_seen, self.task.previews(networks, found))
        return metrics["val/score"]

    def _save(self, saver: Saver, score: float | None) -> None:
        # The losses are of the weights before the last step; these are the ones after it.
        norm = plain(torch.nn.utils.get_total_norm(self.state.network.parameters()))
        _check_finite({"the norm of the weights": float(norm)}, self.state.images_seen)
        if self.rank == 0 or self.state.gradients.group is not None:
            saver.wait()  # before the copy: one at a time is enough for the host's memory
            saver.save(checkpoint.snapshot(self.state, self.config, self.train, score))


def loop(config: Config, harness: Harness, device: torch.device) -> dict[str, Any]:
    """Train one process to the end of its budget, continuing from the newest checkpoint.

    Args:
        config: The resolved configuration of the run.
        harness: How the loop is resumed, saved, watched and stopped.
        device: Where to train.

    Returns:
        ``images_seen``, ``steps``, ``metrics`` (the last of each), ``best`` and ``profile``.

    Raises:
        DataError: If the dataset cannot be read.
        StorageError: If a checkpoint cannot be written.
        Diverged: If loss or gradient are not finite in more than ``training.max_nonfinite_steps``
            steps in a row, or a weight or a validation is not. The last checkpoint is whole:
            nothing that is not finite is ever saved.
        Preempted: If a worker was asked to stop; a checkpoint was saved.
    """
    tune(device)
    training = _Training(config, harness, device)
    training.run()
    state = training.state
    return {
        "images_seen": state.images_seen,
        "steps": state.steps,
        "metrics": state.metrics,
        "best": state.best,
        "profile": state.profile,
    }
