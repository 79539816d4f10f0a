"""Checkpoint directories: written, found again, verified, thinned out.

``model.safetensors``, ``ema.safetensors``, ``trainer.pt`` (the optimizer; loads with
``weights_only=True``), ``state.json``, ``config.yaml``, and last the seal, ``manifest.json``.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ray_diffusion.config import Config, dump
from ray_diffusion.data.training_set import TrainingSet
from ray_diffusion.errors import UsageError
from ray_diffusion.storage import MANIFEST, Directory
from ray_diffusion.training.state import TrainState

NAME = re.compile(r"checkpoint-(\d{12})")


def name_of(images_seen: int) -> str:
    """The name of a checkpoint; names sort by age."""
    return f"checkpoint-{images_seen:012d}"


def names(run: Directory) -> list[str]:
    """The checkpoints of a run, oldest first, whole or not."""
    return [name for name in run.names() if NAME.fullmatch(name)]


def _weights(network: nn.Module) -> dict[str, torch.Tensor]:
    # Without the memory format: the bytes of a file should not depend on the device's layout.
    return {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}


def write(directory: Path, state: TrainState, config: Config, data: TrainingSet) -> None:
    """Write the state into an empty local directory.

    Args:
        directory: Where to; exists.
        state: What to write.
        config: The run's resolved configuration.
        data: What is trained on; a checkpoint refuses to go on with anything else.
    """
    save_file(_weights(state.network), directory / "model.safetensors")
    save_file(_weights(state.average), directory / "ema.safetensors")
    torch.save(state.optimizer.state_dict(), directory / "trainer.pt")
    facts = {
        "images_seen": state.images_seen,
        "steps": state.steps,
        "dataset_fingerprint": data.fingerprint,
        "order": data.order_state(),
        "metrics": state.metrics,
        "best": state.best,
        "profile": state.profile,
    }
    (directory / "state.json").write_text(json.dumps(facts, indent=1))
    (directory / "config.yaml").write_text(dump(config))


def load(
    directory: Path, state: TrainState, data: TrainingSet, device: torch.device
) -> TrainingSet:
    """Continue from a checkpoint.

    Args:
        directory: A whole checkpoint, on this machine.
        state: Overwritten.
        data: What training will read.
        device: Where the state lives.

    Returns:
        The data in the order in which the checkpoint has read it.

    Raises:
        UsageError: If the checkpoint was trained on other data.
    """
    facts = json.loads((directory / "state.json").read_text())
    if facts["dataset_fingerprint"] != data.fingerprint:
        raise UsageError(
            f"the checkpoint was trained on dataset {facts['dataset_fingerprint']}, "
            f"data.dataset_url now holds {data.fingerprint}; choose another run.name"
        )
    state.network.load_state_dict(load_file(directory / "model.safetensors", device=str(device)))
    state.average.load_state_dict(load_file(directory / "ema.safetensors", device=str(device)))
    moments = torch.load(directory / "trainer.pt", map_location=device, weights_only=True)
    state.optimizer.load_state_dict(moments)
    state.images_seen, state.steps = facts["images_seen"], facts["steps"]
    state.metrics, state.best = facts["metrics"], facts["best"]
    state.profile = facts["profile"]
    return data.in_order(facts["order"])


def fetch_newest(run: Directory, into: Path, warn: Callable[[str], None]) -> str | None:
    """Bring the newest whole checkpoint of a run to this machine.

    Args:
        run: The run's directory.
        into: Where to; an empty directory.
        warn: Told of each damaged checkpoint that is passed over. One without a seal was never
            finished, which is no damage.

    Returns:
        The checkpoint's name, or None if the run has none.
    """
    for name in reversed(names(run)):
        for leftover in into.iterdir():
            leftover.unlink()
        problem = run.fetch(name, into)
        if problem is None:
            return name
        if problem != f"has no {MANIFEST}":
            warn(f"{run.url}/{name} {problem}; it is passed over")
    return None


def newest_facts(run: Directory) -> tuple[str, dict[str, Any]] | None:
    """The name of the newest finished checkpoint and what its ``state.json`` says, if any."""
    for name in reversed(names(run)):
        directory = run / name
        content = directory.read("state.json")
        if content is not None and directory.read(MANIFEST) is not None:
            return name, json.loads(content)
    return None


def thin_out(run: Directory, newest: str, keep: int) -> None:
    """Delete all but the newest checkpoints.

    Args:
        run: The run's directory.
        newest: The one just published. Whatever lies beyond it is damaged or unfinished, or the
            run would have continued from there; it must not take the place of a whole one.
        keep: How many stay, at least 1.
    """
    found = names(run)
    kept = [name for name in found if name <= newest][-keep:]
    for name in found:
        if name not in kept:
            run.remove(name)
