"""Networks whose weights, gradients and moments are spread over the workers (FSDP2, ZeRO-3).

Each worker keeps one slice of every weight, of its moments and of its average, and has the whole
of one block at a time while it computes with it (Zhao et al. 2023, arXiv:2304.11277). A forward or
backward pass is a collective: all workers make equally many, in one order, or they hang.

On disk moments are safetensors whatever the strategy, ``MOMENT.PARAMETER`` by name: one file from
an unsharded optimizer, one per worker from a sharded one, with the place of each slice in its
header. Any number of workers, sharded or not, reads either; nothing is unpickled.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from ray_diffusion.models.blocks import blocks_of
from ray_diffusion.storage import MANIFEST, Directory, digest, manifest_of
from ray_diffusion.training.collective import plain, sum_over_workers
from ray_diffusion.training.state import unmoved

T = TypeVar("T")


def shard(network: nn.Module) -> None:
    """Leave each worker its slice of every weight; gradients will be sums over the workers.

    Args:
        network: The same on every worker; changed in place, before an optimizer is made of its
            parameters. Convolutions lose the channels_last format of their weights, which slices
            cannot have; images keep it.
    """
    device = next(network.parameters()).device
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for module in (*blocks_of(network), network):  # the network's is what its blocks leave over
        part = fully_shard(module, mesh=mesh)
        # Sums, not means; and nothing but sums, as gloo cannot multiply while it adds.
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)


class ScatteredSum:
    """Sums gradients over all workers and leaves each worker its slice; see ``Gradients``.

    Args:
        network: A sharded one.
    """

    def __init__(self, network: nn.Module) -> None:
        assert isinstance(network, FSDPModule)
        self._network = network
        # Checkpoints are written in a thread, whose collectives must not meet those of the step.
        self.group: ProcessGroup | None = distributed.new_group(backend="gloo")

    def backward(self, loss: Tensor, last: bool) -> None:
        """See ``Gradients``."""
        self._network.set_requires_gradient_sync(last)
        loss.backward()  # type: ignore[no-untyped-call]

    def finish(self, facts: Tensor) -> None:
        """See ``Gradients``."""
        sum_over_workers([facts])


@torch.no_grad()
def whole(network: nn.Module, onto: nn.Module) -> None:
    """Copy the weights of a network, sharded or not, to an unsharded one. All workers take part.

    Args:
        network: Where from.
        onto: Of the same build; keeps its memory format. One weight at a time is gathered, so
            this costs no memory beside its own. What workers draw or measure each for itself
            needs such a copy: a pass through a sharded network takes all of them.
    """
    kept = onto.state_dict()
    for name, value in network.state_dict().items():
        kept[name].copy_(plain(value))


def load_weights(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Set the weights of a network, sharded or not.

    Args:
        network: Changed in place.
        weights: All of them, whole, by name; the same on every worker.
    """
    set_model_state_dict(
        network, {**weights}, options=StateDictOptions(full_state_dict=True, strict=True)
    )


@contextmanager
def _plainly() -> Iterator[None]:
    """Raise what a worker met in place of torch's bundle of such, which is no ``Exception``."""
    try:
        yield
    except CheckpointException as bundle:
        error, _ = next(iter(bundle.failures.values()))
        raise error from None


def write(directory: Path, moments: dict[str, Tensor], group: ProcessGroup) -> None:
    """Write a worker's slices of the optimizer's moments, and where they belong.

    Args:
        directory: Where to, a local one of this worker's own; exists.
        moments: By name, on the host.
        group: All workers, over gloo; each must call this, and writes those that it has.

    Raises:
        OSError: On every worker, if one of them could not write.
    """
    writer = HuggingFaceStorageWriter(str(directory), save_distributed=True)
    writer.sync_files = False  # these files are on their way to the run's storage
    with _plainly():
        state_dict_saver.save(moments, storage_writer=writer, process_group=group)
    rank, world = group.rank(), group.size()
    for written in directory.glob("shard-*.safetensors"):
        written.rename(directory / f"optimizer-{rank + 1:05}-of-{world:05}.safetensors")


def load(directory: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Set an optimizer's moments, in slices or whole, from files in slices or whole.

    Args:
        directory: Holds all files of a checkpoint, on this machine.
        network: Names the parameters; sharded or not.
        optimizer: Of these parameters; changed in place.

    Raises:
        ValueError: If the moments are of parameters of another shape.
        RuntimeError: If there are none of some parameter.
    """
    states = {name: unmoved(parameter) for name, parameter in network.named_parameters()}
    wanted = {f"{moment}.{name}": v for name, s in states.items() for moment, v in s.items()}
    with warnings.catch_warnings(), _plainly():
        # That this is not done together: each worker has all files, and takes what it needs.
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        reader = HuggingFaceStorageReader(str(directory))
        state_dict_loader.load(wanted, storage_reader=reader, no_dist=True)
    for name, parameter in network.named_parameters():
        optimizer.state[parameter] = states[name]


def agreed(task: Callable[[], T], group: ProcessGroup) -> list[T]:
    """Do a task on every worker, and learn what became of it on each.

    Args:
        task: What to do.
        group: All workers, over gloo; each must call this.

    Returns:
        The results, by rank.

    Raises:
        Exception: What the first worker met that failed; on every worker, as none may wait for
            one that is gone.
    """
    result: T | Exception
    try:
        result = task()
    except Exception as error:
        result = error
    results: list[T | Exception] = [result] * group.size()
    distributed.all_gather_object(results, result, group)
    for found in results:
        if isinstance(found, Exception):
            raise found
    return results  # type: ignore[return-value]


def publish(run: Directory, directory: Path, name: str, group: ProcessGroup) -> None:
    """Upload what each worker wrote as one sealed directory; see ``Directory.publish``.

    Args:
        run: Where to.
        directory: A local one of this worker's own; holds plain files only, and none whose name
            another worker uses too.
        name: What it is called there. A leftover of that name is overwritten.
        group: All workers, over gloo; each must call this.

    Raises:
        StorageError: On every worker, if one of them could not upload.
    """
    first = group.rank() == 0

    def upload() -> dict[str, dict[str, int | str]]:
        files = sorted(directory.iterdir())
        for path in files:
            run.put(path, f"{name}/{path.name}")
        return {path.name: digest(path) for path in files}

    agreed(lambda: run.remove(name) if first else None, group)
    files = {file: facts for part in agreed(upload, group) for file, facts in part.items()}
    manifest = manifest_of(files)
    agreed(lambda: run.write(f"{name}/{MANIFEST}", manifest) if first else None, group)
