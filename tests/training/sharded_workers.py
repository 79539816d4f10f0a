"""What each of two gloo processes does for ``test_training_sharded.py``."""

import os
import shutil
import warnings
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, distributed, nn
from torch.distributed import ProcessGroup
from torch.distributed.fsdp import FSDPModule
from toy import CPU, World

from ray_diffusion import config
from ray_diffusion.config import Config
from ray_diffusion.data.stream import Stream, batches
from ray_diffusion.data.training_set import TrainingSet, open_split, open_training_set
from ray_diffusion.errors import Preempted, StorageError
from ray_diffusion.models.blocks import blocks_of
from ray_diffusion.models.build import build
from ray_diffusion.storage import Directory
from ray_diffusion.training import checkpoint, sharded
from ray_diffusion.training.checkpoint import Snapshot, name_of
from ray_diffusion.training.collective import plain, rank_and_world
from ray_diffusion.training.saving import Saver
from ray_diffusion.training.state import TrainState, callable_alone, initial_state
from ray_diffusion.training.step import train_step
from ray_diffusion.training.tasks import task_of

STEPS = 5
STRATEGIES = ("ddp", "fsdp")
DIT = {"model.kind": "dit", "model.channels": 24, "model.depth": 2}
CASES: dict[str, dict[str, object]] = {
    "unet": {},
    "unet in parts": {"training.micro_batch_size": 6},
    "unet recomputed": {"training.activation_checkpointing": True},
    "dit": DIT,
    "dit in bfloat16": DIT | {"training.precision": "bf16"},
}


def case_of(run: Config, case: str, strategy: str) -> Config:
    return config.override(run, CASES[case] | {"cluster.strategy": strategy, "optim.lr": 1e-2})


def data_of(run: Config) -> TrainingSet:
    return open_training_set(run.data)


def begun(run: Config) -> TrainState:
    """A state whose zeroed layers have weights too; the same on every worker."""
    awake, state = build(run, seed=0), initial_state(run, CPU)
    draws = torch.Generator().manual_seed(0)
    for parameter in awake.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1, generator=draws)
    for network in (state.network, state.average):
        sharded.load_weights(network, awake.state_dict())
    # With AdamW's usual eps the sign of a gradient that is nothing but rounding makes a step.
    state.optimizer.param_groups[0]["eps"] = 1e-3
    return state


def train(state: TrainState, run: Config) -> list[tuple[float, float]]:
    """Loss and gradient norm of some steps."""
    place, batch = rank_and_world(), run.data.global_batch_size
    stream = Stream(data_of(run), run.run.seed, state.images_seen, batch, *place)
    with closing(batches(stream)) as found, closing(open_split(run.data, "val")) as val:
        task = task_of(run, CPU, val)
        results = [train_step(state, next(found), task) for _ in range(STEPS)]
    return [(float(result.loss), float(result.grad_norm)) for result in results]


def everything(state: TrainState, run: Config) -> dict[str, Tensor]:
    """Whole moments on every worker, and on the first one weights and average."""
    copy = checkpoint.snapshot(state, run, data_of(run))
    return {
        **{f"model.{name}": value for name, value in copy.weights.items()},
        **{f"ema.{name}": value for name, value in copy.average.items()},
        **{name: plain(value) for name, value in copy.moments.items()},
    }


def saved(state: TrainState, run: Config, world: World) -> None:
    with Saver(world.harness().save, state.gradients.group) as saver:
        if rank_and_world()[0] == 0 or state.gradients.group is not None:
            saver.save(checkpoint.snapshot(state, run, data_of(run)))
    if distributed.is_initialized():
        distributed.barrier()


def restored(run: Config, world: World, into: Path) -> TrainState:
    into.mkdir(parents=True)
    assert world.harness().restore(into)
    state = initial_state(config.override(run, {"run.seed": 99}), CPU)
    checkpoint.load(into, state, data_of(run))
    return state


def own_bytes(network: nn.Module) -> int:
    return sum(
        value.to_local().nbytes if hasattr(value, "to_local") else value.nbytes
        for value in network.parameters()
    )


def copies(run: Config) -> dict[str, object]:
    """What the unsharded copy of a sharded network is and computes, beside the network itself."""
    run = config.override(run, {"cluster.strategy": "fsdp", "model.dropout": 0.5})
    state = begun(run)
    copy = callable_alone(state.average, run)
    sizes = [own_bytes(network) for network in (copy, state.network, state.average)]
    images, zeros = torch.ones(2, 1, 8, 8), torch.zeros(2)
    with torch.no_grad():
        both = [network(images, zeros, zeros.long()) for network in (copy, state.average)]
    return {
        "bytes": sizes,
        "gathered apart": [isinstance(m, FSDPModule) for m in blocks_of(state.network)],
        "images": both,
        "is channels_last": copy.conv_in.weight.is_contiguous(memory_format=torch.channels_last),
    }


class Full(Directory):
    """Storage that takes nothing from one worker."""

    def put(self, path: Path, name: str) -> None:
        if path.name == "from-1":
            raise StorageError("no space left")
        super().put(path, name)


def failed_publication(directory: Path, group: ProcessGroup) -> str:
    own = directory / f"own-{group.rank()}"
    own.mkdir()
    (own / f"from-{group.rank()}").write_text("content")
    try:
        sharded.publish(Full(str(directory)), own, "failed", group)
    except StorageError as error:
        return str(error)
    return "published"


def failed_writing(copy: Snapshot, directory: Path, group: ProcessGroup, failing: int) -> str:
    """The error where one worker has a file in place of a directory."""
    own = directory / f"written-{failing}-{group.rank()}"
    own.touch() if group.rank() == failing else own.mkdir()
    try:
        checkpoint.write(own, copy, group)
    except (OSError, SafetensorError) as error:
        return type(error).__name__
    return "written"


def steps(run: Config, directory: Path) -> dict[str, object]:
    """What a few steps come to, by case and strategy; leaves checkpoints of one case."""
    found: dict[str, object] = {}
    for case in CASES:
        for strategy in STRATEGIES:
            chosen = case_of(run, case, strategy)
            state = begun(chosen)
            told = train(state, chosen)
            found[f"{case}, {strategy}"] = told, everything(state, chosen)
            if case == "unet":
                saved(state, chosen, World(directory / f"of {strategy}"))
    for written in STRATEGIES:
        for read in STRATEGIES:
            chosen, world = case_of(run, "unet", read), World(directory / f"of {written}")
            into = directory / f"{written} into {read} on {rank_and_world()[0]}"
            state = restored(chosen, world, into)
            found[f"{written} into {read}"] = everything(state, chosen)
    return found


def stopped(run: Config, world: World, after: int) -> str:
    try:
        world.train(run, stop_after=after)
    except Preempted as stop:
        return str(stop)
    return "not stopped"


def copied(world: World, to: Path, *names: str) -> World:
    """A run that has some of the checkpoints of another one; all workers take part."""
    distributed.barrier()
    if rank_and_world()[0] == 0:
        for name in names:
            shutil.copytree(world.path / name, to / name)
    distributed.barrier()
    return World(to)


def loops(run: Config, directory: Path) -> dict[str, object]:
    """Whole runs; what the first worker was told of each."""
    batch = run.data.global_batch_size
    ddp, fsdp = (config.override(run, {"cluster.strategy": strategy}) for strategy in STRATEGIES)
    worlds = {name: World(directory / name) for name in ("ddp", "fsdp", "stopped")}
    worlds["ddp"].train(ddp, keep=9)
    worlds["fsdp"].train(fsdp)
    message = stopped(fsdp, worlds["stopped"], after=4)
    copied(worlds["stopped"], directory / "alone", name_of(4 * batch))
    every_step = config.override(fsdp, {"training.checkpoint_every_images": 1})
    worlds["stopped"].train(every_step, keep=3)
    worlds["switched"] = copied(worlds["ddp"], directory / "switched", name_of(6 * batch))
    worlds["switched"].train(fsdp)
    return {
        "stopped": message,
        "points": {name: world.points for name, world in worlds.items()},
        "shown": worlds["fsdp"].shown,
    }


def work(rank: int, directory: Path, run: Config) -> None:
    """One process; leaves ``result-RANK.pt`` and runs in the directory."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    os.environ["XDG_CACHE_HOME"] = str(directory / "cache")
    removed, remove = [], Directory.remove

    def recording(directory: Directory, name: str) -> None:
        removed.append(name)
        remove(directory, name)

    Directory.remove = recording
    limit = timedelta(minutes=2)  # for one that waits for a worker that is gone
    distributed.init_process_group(
        "gloo", init_method=f"file://{directory}/store", rank=rank, world_size=2, timeout=limit
    )
    group = distributed.new_group(backend="gloo", timeout=limit)
    copy = checkpoint.snapshot(begun(case_of(run, "unet", "fsdp")), run, data_of(run))
    try:
        result = {
            "copies": copies(run),
            "failed publication": failed_publication(directory, group),
            "failed writing": [failed_writing(copy, directory, group, one) for one in range(2)],
            **steps(run, directory),
            **loops(run, directory),
            "removed": removed,
        }
        torch.save(result, directory / f"result-{rank}.pt")
    finally:
        distributed.destroy_process_group()
