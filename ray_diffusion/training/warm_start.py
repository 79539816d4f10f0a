"""First weights from another model: whatever fits by name and shape; the rest starts at random.

A launch publishes them as ``<run>/init`` (`ray_diffusion.cluster.warm_start`), so that workers need
the run's storage alone.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from ray_diffusion.errors import StorageError
from ray_diffusion.storage import Directory

INIT, WEIGHTS = "init", "weights.safetensors"

# Every network has one, and its last row means "no class": the unconditional model, which is of
# use whatever the classes are.
CLASSES = "class_embedding.weight"

MOST_NAMED = 3  # tensors that a person is told by name
MOST_HEADER = 100_000_000  # bytes; the limit of safetensors itself

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Match:
    """What a network gets of a file of weights.

    Attributes:
        source: The tensors of the file.
        target: The tensors of the network.
    """

    source: Shapes
    target: Shapes

    @property
    def whole(self) -> list[str]:
        """Tensors that are in both and have the same shape."""
        return [name for name, shape in self.target.items() if self.source.get(name) == shape]

    @property
    def no_class(self) -> bool:
        """Whether the class embedding gets its last row alone, as it has other classes."""
        theirs, ours = self.source.get(CLASSES), self.target.get(CLASSES)
        return bool(theirs and ours and theirs != ours and theirs[1:] == ours[1:])

    @property
    def new(self) -> list[str]:
        """Tensors of the network that get nothing."""
        found = {*self.whole, *([CLASSES] if self.no_class else [])}
        return [name for name in self.target if name not in found]

    @property
    def unused(self) -> list[str]:
        """Tensors of the file that the network has not."""
        return [name for name in self.source if name not in self.target]

    @property
    def share(self) -> float:
        """How many of the network's weights come from the file, in [0, 1]."""
        found = sum(prod(self.target[name]) for name in self.whole)
        found += prod(self.target[CLASSES][1:]) if self.no_class else 0
        return found / sum(map(prod, self.target.values()))

    def describe(self) -> tuple[str, str]:
        """For a person: how much fits, and what does not (empty if all does)."""
        parts = {
            "last row alone (no class)": [self._resized(CLASSES)] if self.no_class else [],
            "new": [self._resized(name) for name in self.new],
            "unused": self.unused,
        }
        return (
            f"{len(self.whole)} of {len(self.target)} tensors ({self.share:.1%} of the weights)",
            "; ".join(f"{what}: {_listed(names)}" for what, names in parts.items() if names),
        )

    def _resized(self, name: str) -> str:
        there, here = self.source.get(name), self.target[name]
        return f"{name} {there} -> {here}" if there else f"{name} {here}"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def stored_shapes(directory: Directory, name: str) -> Shapes | None:
    """The shapes of the tensors of a safetensors file, of which the header alone is read.

    Args:
        directory: Where it is.
        name: Its name.

    Returns:
        Shapes by tensor; None if there is no such file.

    Raises:
        StorageError: If it cannot be read, or is no such file.
    """
    if name not in directory.names():
        return None
    # The length of the header in 8 bytes, little-endian, then the header, in JSON.
    length = int.from_bytes(directory.read_range(name, 0, 8), "little")
    content = directory.read_range(name, 8, min(length, MOST_HEADER))
    try:
        header = json.loads(content)
        return {
            tensor: tuple(facts["shape"])
            for tensor, facts in header.items()
            if tensor != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{directory.url}/{name} is damaged: no safetensors header") from error


def shapes_of(network: nn.Module) -> Shapes:
    """The shapes of what a network keeps in a checkpoint, also where it is on the meta device."""
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


@torch.no_grad()
def load(weights: Path, network: nn.Module) -> Match:
    """Overwrite what fits of a network, in place.

    Args:
        weights: A safetensors file.
        network: The network, not sharded; keeps its device, dtypes and memory format.

    Returns:
        What was overwritten.
    """
    own = network.state_dict()
    with safe_open(weights, framework="pt") as tensors:  # one at a time: a file may be half of RAM
        source = {name: tuple(tensors.get_slice(name).get_shape()) for name in [*tensors.keys()]}
        found = Match(source, shapes_of(network))
        for name in found.whole:
            own[name].copy_(tensors.get_tensor(name))
        if found.no_class:
            own[CLASSES][-1].copy_(tensors.get_tensor(CLASSES)[-1])
    return found


def start(network: nn.Module, run: Directory) -> Match:
    """Begin a run with the weights that its launch has published.

    Args:
        network: The network, before it is sharded or compiled; overwritten.
        run: The run's directory.

    Returns:
        What was overwritten.

    Raises:
        StorageError: If the weights are not there, or damaged.
    """
    with tempfile.TemporaryDirectory() as scratch:
        problem = run.fetch(INIT, Path(scratch))
        if problem is not None:
            raise StorageError(
                f"{run.url}/{INIT} {problem}; delete it, and a new launch makes it again"
            )
        return load(Path(scratch, WEIGHTS), network)
