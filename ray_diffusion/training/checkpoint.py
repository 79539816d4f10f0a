"""Checkpoint directories: copied from the device, written, found again, verified.

``model.safetensors``, ``ema.safetensors``, ``optimizer.safetensors`` (the moments, as
``exp_avg.PARAMETER``) or, where each worker has a share of them, ``optimizer-00001-of-00002...``,
``state.json``, ``config.yaml``, and last the seal, ``manifest.json``.
"""

import json
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from ray_diffusion.config import Config, dump
from ray_diffusion.data.training_set import TrainingSet
from ray_diffusion.errors import UsageError
from ray_diffusion.storage import MANIFEST, Directory
from ray_diffusion.training.collective import plain, rank_and_world
from ray_diffusion.training.state import TrainState, unmoved

NAME = re.compile(r"checkpoint-(\d{12})")
MOMENTS = "optimizer.safetensors"
DATASETS = {"data.dataset_url", "data.mixture_urls", "data.mixture_weights"}


class Snapshot(NamedTuple):
    """A moment of training, in host memory that nothing else changes.

    Tensors lie as they do on the device, which is the fastest way to copy them.

    Attributes:
        images_seen: Images trained on until then.
        weights: Of the network, by name; of the first worker alone.
        average: The averaged weights, by name; of the first worker alone.
        moments: The optimizer's, by name, or this worker's share of them.
        facts: The text of ``state.json``.
        config: The run's resolved configuration.
    """

    images_seen: int
    weights: dict[str, Tensor]
    average: dict[str, Tensor]
    moments: dict[str, Tensor]
    facts: str
    config: Config


def name_of(images_seen: int) -> str:
    """The name of a checkpoint; names sort by age."""
    return f"checkpoint-{images_seen:012d}"


def images_seen_of(name: str) -> int:
    """The images seen until the checkpoint of this name."""
    return int(name.rpartition("-")[2])


def names(run: Directory) -> list[str]:
    """The checkpoints of a run, oldest first, whole or not."""
    return [name for name in run.names() if NAME.fullmatch(name)]


def snapshot(
    state: TrainState, config: Config, data: TrainingSet, score: float | None = None
) -> Snapshot:
    """Copy all that a checkpoint holds; training may go on as soon as this returns.

    Where each worker has a share of the weights, all of them call this together.

    Args:
        state: What to copy.
        config: The run's resolved configuration.
        data: What is trained on; a checkpoint refuses to go on with anything else.
        score: The ``val/score`` of these very weights, where they were just validated.

    Returns:
        The copy.
    """
    facts = {
        "images_seen": state.images_seen,
        "steps": state.steps,
        "dataset_fingerprint": data.fingerprint,
        "order": data.order_state(),
        "score": score,
        "metrics": state.metrics,
        "best": state.best,
        "profile": state.profile,
    }
    found = Snapshot(
        state.images_seen,
        _whole_on_host(state.network),
        _whole_on_host(state.average),
        {name: _on_host(value) for name, value in _moments(state).items()},
        json.dumps(facts, indent=1),
        config,
    )
    device = next(state.network.parameters()).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # once, for all of the copies
    return found


def _whole_on_host(network: nn.Module) -> dict[str, Tensor]:
    found, first = {}, rank_and_world()[0] == 0
    for name, value in network.state_dict().items():
        whole = plain(value)
        if first:
            found[name] = _on_host(whole)
    return found


def _on_host(value: Tensor) -> Tensor:
    """A copy in the same layout; that of a CUDA tensor is under way until it is synchronized."""
    if hasattr(value, "full_tensor"):  # a share of a tensor, which keeps its place in it
        return value.detach().to("cpu", copy=True)
    copied = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
    return copied.copy_(value, non_blocking=True)


def _moments(state: TrainState) -> dict[str, Tensor]:
    return {
        f"{moment}.{name}": value
        for name, parameter in state.network.named_parameters()
        for moment, value in (state.optimizer.state[parameter] or unmoved(parameter)).items()
    }


def write(directory: Path, snapshot: Snapshot, group: ProcessGroup | None = None) -> None:
    """Write a snapshot into an empty local directory.

    Args:
        directory: Where to; exists.
        snapshot: What to write.
        group: All workers, if each of them has a share: then all call this together.

    Raises:
        OSError: If it cannot be written; on all workers.
    """
    if group is None:
        _write_all_but_moments(directory, snapshot)
        _save(snapshot.moments, directory / MOMENTS)
    else:
        from ray_diffusion.training import sharded

        sharded.agreed(lambda: _write_all_but_moments(directory, snapshot), group)
        sharded.write(directory, snapshot.moments, group)


def _write_all_but_moments(directory: Path, snapshot: Snapshot) -> None:
    if snapshot.weights:  # of the first worker alone
        _save(snapshot.weights, directory / "model.safetensors")
        _save(snapshot.average, directory / "ema.safetensors")
        (directory / "state.json").write_text(snapshot.facts)
        (directory / "config.yaml").write_text(dump(snapshot.config))


def _save(tensors: dict[str, Tensor], file: Path) -> None:
    # Whatever the layout on the device: a checkpoint of one kind continues on another, and its
    # bytes do not depend on it.
    save_file({name: value.contiguous() for name, value in tensors.items()}, file)


def load(
    directory: Path, state: TrainState, data: TrainingSet, allow: Collection[str] = ()
) -> TrainingSet:
    """Continue from a checkpoint.

    Args:
        directory: A whole checkpoint, on this machine.
        state: Overwritten.
        data: What training will read.
        allow: Keys that may have changed; see ``run.allow``.

    Returns:
        The data in the order in which the checkpoint has read it; changed data in its own.

    Raises:
        UsageError: If the checkpoint was trained on other data, or is of another version.
    """
    from ray_diffusion.training import sharded  # a second to import

    facts = json.loads((directory / "state.json").read_text())
    changed = facts["dataset_fingerprint"] != data.fingerprint
    if changed and not DATASETS & set(allow):
        raise UsageError(
            f"the checkpoint was trained on dataset {facts['dataset_fingerprint']}, "
            f"data.dataset_url now holds {data.fingerprint}; choose another run.name, or give "
            "run.allow=[data.dataset_url]"
        )
    if not any(directory.glob("optimizer*.safetensors")):
        raise UsageError(
            "the checkpoint was written by an earlier version, which kept the optimizer's state in "
            "another form; choose another run.name, and this run as its run.init_from"
        )
    sharded.load_weights(state.network, load_file(directory / "model.safetensors"))
    sharded.load_weights(state.average, load_file(directory / "ema.safetensors"))
    sharded.load(directory, state.network, state.optimizer)
    state.images_seen, state.steps = facts["images_seen"], facts["steps"]
    state.metrics, state.best = facts["metrics"], facts["best"]
    state.profile = facts["profile"]
    return data if changed else data.in_order(facts["order"])


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


def facts_of(run: Directory, name: str) -> dict[str, Any] | None:
    """What a checkpoint's ``state.json`` says; None if it is unfinished or damaged."""
    content = (run / name).read("state.json")
    if content is None or (run / name).read(MANIFEST) is None:
        return None
    try:
        facts: dict[str, Any] = json.loads(content)
    except ValueError:
        return None
    return facts


def newest_facts(run: Directory) -> tuple[str, dict[str, Any]] | None:
    """The name of the newest finished checkpoint and what its ``state.json`` says, if any."""
    for name in reversed(names(run)):
        facts = facts_of(run, name)
        if facts is not None:
            return name, facts
    return None
