"""What runs on 8, 64 and 512 GPUs would be held up by: arithmetic on paper, no measurement.

FLOPs are counted on the networks of this package; all else follows from the assumptions below.
Prints the tables of docs/operations.md, and a test compares them::

    python benchmarks/arithmetic.py
"""

from math import sqrt
from typing import NamedTuple

import torch

from ray_diffusion import config as configs
from ray_diffusion.config import Config
from ray_diffusion.models.build import build
from ray_diffusion.training.flops import flops_per_image

GPUS = (8, 64, 512)
PER_NODE = 8


class Assumption(NamedTuple):
    """A number that is not ours."""

    value: float
    words: str
    source: str


PEAK = Assumption(989e12, "a GPU's bf16 peak: 989 TFLOP/s", "H100 SXM data sheet, dense")
MFU = Assumption(0.35, "share of it that networks reach: 35 %", "assumed")
LAUNCH = Assumption(5e-6, "time of the host to launch a kernel: 5 µs", "assumed")
NVLINK = Assumption(450e9, "a GPU to its node: 450 GB/s each way", "H100 SXM data sheet")
NETWORK = Assumption(
    400e9, "a node to other nodes: 400 GB/s", "assumed: eight 400 Gb/s ports, as in DGX H100"
)
COLLECTIVE = Assumption(0.7, "share of these that an all-reduce reaches: 70 %", "assumed")
STORAGE = Assumption(2e9, "a node to storage: 2 GB/s", "assumed")
HOST_COPY = Assumption(50e9, "a GPU to its host's memory: 50 GB/s", "assumed: PCIe 5, pinned")
CORES = Assumption(12, "CPU cores for each GPU: 12", "assumed")
FAILURE_H = Assumption(
    16_384 * 54 * 24 / 419,
    "one interruption in 51,000 GPU hours",
    "419 in 54 days on 16,384 H100 (Grattafiori et al. 2024, arXiv:2407.21783)",
)
ASSUMPTIONS = (
    *(PEAK, MFU, LAUNCH, NVLINK, NETWORK, COLLECTIVE),
    *(STORAGE, HOST_COPY, CORES, FAILURE_H),
)
STATE_BYTES = 16  # of a parameter in a checkpoint: weight, average and two moments, in float32
GRADIENT_BYTES = 4


class Recipe(NamedTuple):
    """A network and how it is fed.

    Bytes and rates are of crops of photographs as PNG (``pack source=builtin:photos``), read by one
    core of an EPYC with other work on it, and rounded; those of latents are assumed.

    Attributes:
        name: For a person.
        arguments: As on the command line of ``train``.
        kernels: Launched in a step without ``training.compile``; the operators of the forward and
            the backward pass in autocast, counted once, views and optimizer left out.
        example_bytes: Of a shard for each example, its tar headers included.
        decoded: Examples that a core reads, checks and decodes in a second.
    """

    name: str
    arguments: tuple[str, ...]
    kernels: int
    example_bytes: float
    decoded: float

    @property
    def config(self) -> Config:
        """With everything known that a dataset would have told."""
        return configs.load([*self.arguments, "training.precision=bf16"])


DIT = ("model.kind=dit", "model.num_classes=1000")
RECIPES = (
    Recipe(
        "CIFAR-10, U-Net of `ddpm-cifar10`",
        ("ddpm-cifar10", "model.image_channels=3"),
        kernels=1300,
        example_bytes=4.0e3,
        decoded=8000,
    ),
    Recipe(
        "ImageNet 64, DiT-L/4",
        (
            *(*DIT, "model.channels=1024", "model.depth=24", "model.patch_size=4"),
            *("data.image_size=64", "model.image_channels=3", "data.global_batch_size=2048"),
        ),
        kernels=2100,
        example_bytes=8.7e3,
        decoded=3500,
    ),
    Recipe(
        "latents of 256 px, DiT-XL/2",
        (
            *(*DIT, "model.channels=1152", "model.depth=28", "model.patch_size=2"),
            *("data.image_size=32", "model.image_channels=4", "data.global_batch_size=256"),
        ),
        kernels=2400,
        example_bytes=9.7e3,
        decoded=20_000,
    ),
)


class Size(NamedTuple):
    """What a network is: ``parameters``, and FLOPs of an image forward and backward."""

    parameters: int
    flops: int


def size_of(config: Config) -> Size:
    with torch.device("meta"):
        parameters = sum(p.numel() for p in build(config).parameters())
    return Size(parameters, flops_per_image(config))


class Step(NamedTuple):
    """Seconds of a step that each resource is busy; ``volume`` is what a GPU sends, bytes."""

    arithmetic: float
    launches: float
    all_reduce: float
    reading: float
    decoding: float
    volume: float

    @property
    def gpu(self) -> float:
        """Launches run ahead of the GPU, so the slower of both counts."""
        return max(self.arithmetic, self.launches)

    @property
    def hidden(self) -> float:
        """With gradients summed during the backward pass, two thirds of the work."""
        return max(self.gpu, self.gpu / 3 + self.all_reduce, self.reading, self.decoding)

    @property
    def in_turn(self) -> float:
        """With gradients summed after it."""
        return max(self.gpu + self.all_reduce, self.reading, self.decoding)

    @property
    def bottleneck(self) -> str:
        """What the step waits for, if gradients are summed during the backward pass."""
        times = {
            "arithmetic": self.arithmetic,
            "launches": self.launches,
            "all-reduce": self.all_reduce + self.gpu / 3,
            "reading": self.reading,
            "decoding": self.decoding,
        }
        starves = "; the GPU starves" if self.launches > self.arithmetic else ""
        return max(times, key=lambda name: times[name]) + starves


def step_of(recipe: Recipe, size: Size, gpus: int) -> Step:
    images = recipe.config.data.global_batch_size / gpus
    in_node = images * min(PER_NODE, gpus)
    # As many rings as a node has ports, each of which leaves the node once and carries its part.
    link = NVLINK if gpus <= PER_NODE else NETWORK
    volume = 2 * (gpus - 1) / gpus * GRADIENT_BYTES * size.parameters
    return Step(
        arithmetic=images * size.flops / (PEAK.value * MFU.value),
        launches=recipe.kernels * LAUNCH.value,
        all_reduce=volume / (link.value * COLLECTIVE.value),
        reading=in_node * recipe.example_bytes / STORAGE.value,
        decoding=in_node / (recipe.decoded * CORES.value * PER_NODE),
        volume=volume,
    )


def table(head: str, rows: list[list[str]]) -> str:
    columns = head.split(" | ")
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def recipes(sizes: dict[Recipe, Size]) -> str:
    rows = []
    for recipe, size in sizes.items():
        launches = recipe.kernels * LAUNCH.value
        resident = (STATE_BYTES + GRADIENT_BYTES) * size.parameters / 1e9
        rows.append(
            [
                recipe.name,
                f"{size.parameters / 1e6:.0f} M",
                f"{size.flops / 1e9:.0f}",
                f"{recipe.config.data.global_batch_size:,}",
                f"{recipe.example_bytes / 1e3:.1f}",
                f"{recipe.decoded:,.0f}",
                f"{recipe.kernels:,}",
                f"{launches / (size.flops / (PEAK.value * MFU.value)):.0f}",
                f"{resident:.1f}",
                f"{resident / PER_NODE:.2g}",
            ]
        )
    head = (
        "recipe | parameters | GFLOP an image | global batch | KB an example | "
        "decoded by a core, images/s | kernels a step | GPU starves below, images | "
        "GB of state a GPU: ddp | fsdp on 8"
    )
    return table(head, rows)


def steps(sizes: dict[Recipe, Size]) -> str:
    rows = []
    for recipe, size in sizes.items():
        batch = recipe.config.data.global_batch_size
        for gpus in GPUS:
            if batch < gpus:
                rows.append([recipe.name, f"{gpus}", *["-"] * 9, "refused: more GPUs than images"])
                continue
            step = step_of(recipe, size, gpus)
            speed, nodes = batch / step.hidden, gpus // PER_NODE
            times = (step.arithmetic, step.launches, step.all_reduce, step.in_turn, step.hidden)
            rows.append(
                [
                    *(recipe.name, f"{gpus}", f"{batch / gpus:g}", f"{step.volume / 1e9:.2f}"),
                    *(f"{1e3 * seconds:.3g}" for seconds in times),
                    f"{speed * recipe.example_bytes / nodes / 1e6:.3g}",
                    f"{speed / recipe.decoded / nodes:.2g}",
                    step.bottleneck,
                ]
            )
    head = (
        "recipe | GPUs | images a GPU | all-reduce, GB | arithmetic, ms | launches, ms | "
        "all-reduce, ms | step, summed after, ms | step, summed during, ms | "
        "MB/s a node | cores a node | bottleneck"
    )
    return table(head, rows)


def checkpoints(sizes: dict[Recipe, Size]) -> str:
    rows = []
    for recipe, size in sizes.items():
        batch = recipe.config.data.global_batch_size
        for gpus in (count for count in GPUS if count <= batch):
            written = STATE_BYTES * size.parameters
            pause, upload = written / HOST_COPY.value, written / STORAGE.value
            between = FAILURE_H.value / gpus * 3600
            interval = max(sqrt(2 * pause * between), upload)
            speed = batch / step_of(recipe, size, gpus).hidden
            lost = pause / interval + interval / 2 / between
            rows.append(
                [
                    *(recipe.name, f"{gpus}", f"{written / 1e9:.2g}", f"{1e3 * pause:.3g}"),
                    *(f"{upload:.2g}", f"{between / 3600:,.0f}", f"{interval / 60:.2g}"),
                    f"{float(f'{interval * speed:.1g}'):,.0f}",
                    f"{written / interval / 1e6:.2g}",
                    f"{100 * lost:.1g} %",
                ]
            )
    head = (
        "recipe | GPUs | GB | host copy, ms | upload, s | failure each, h | interval, min | "
        "checkpoint_every_images | MB/s | time lost"
    )
    return table(head, rows)


def tables() -> str:
    """The tables, in Markdown."""
    sizes = {recipe: size_of(recipe.config) for recipe in RECIPES}
    assumed = table("assumption | source", [[each.words, each.source] for each in ASSUMPTIONS])
    parts = (assumed, recipes(sizes), steps(sizes), checkpoints(sizes))
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(tables())
