"""What latents save: the step of one network on images of 64 pixels, and on their latents.

Prints the processor time of each, in which other work on the machine does not count, as a multiple
of the latents' step::

    python benchmarks/latent.py [key.path=value ...]

The keys change the network, such as model.channels=64; the codec is the one of the preset
autoencoder-shapes, untrained, which computes as long as a trained one.
"""

import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from torch import Tensor

from ray_diffusion import config as configs
from ray_diffusion.config import Config
from ray_diffusion.data.reader import Batch, Dataset
from ray_diffusion.models.build import build
from ray_diffusion.models.codecs.space import LatentSpace, Pixels, Space
from ray_diffusion.models.pixels import encode
from ray_diffusion.training.denoising import Denoising
from ray_diffusion.training.state import initial_state
from ray_diffusion.training.step import train_step

SIDE, BATCH, ROUNDS = 64, 16, 5
CPU = torch.device("cpu")


def batch_of(read: Tensor) -> Batch:
    """A batch as a dataset would give it."""
    images = read.to(memory_format=torch.channels_last)
    return Batch(
        images, torch.zeros(BATCH, dtype=torch.int64), torch.ones(BATCH), np.arange(BATCH), bad=0
    )


def step(config: Config, space: Space, read: Tensor) -> tuple[Callable[[], object], int]:
    """A training step, and how many weights it trains."""
    # Of the split nothing is read.
    val = Dataset("builtin:digits", "val", 8, config.data.cache_bytes)
    state, task = initial_state(config, CPU), Denoising(config, CPU, val, space)
    batch = batch_of(read)
    weights = sum(parameter.numel() for parameter in state.network.parameters())
    return lambda: train_step(state, batch, task), weights


def seconds(work: Callable[[], object]) -> float:
    """Processor time of one call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    """Measure and print."""
    codec_config = configs.override(
        configs.load(["autoencoder-shapes"]), {"model.image_channels": 3}
    )
    codec = build(codec_config, seed=0).autoencoder.eval().requires_grad_(False)
    side, channels = SIDE // codec.factor, codec.latent_channels
    network = {
        "data.image_size": SIDE,
        "data.global_batch_size": BATCH,
        "model.num_classes": 0,
        "model.image_channels": 3,
        "model.attention_levels": [1],  # of 4,096 pixels it would be most of the cost
    }
    of_pixels = configs.override(
        configs.load(["latent-shapes", *sys.argv[1:]]), network | {"data.latent_size": None}
    )
    latent = {
        "data.codec": "autoencoder",
        "data.latent_size": side,
        "model.image_channels": channels,
    }
    of_latents = configs.override(of_pixels, latent)
    images = torch.randint(256, (BATCH, 3, SIDE, SIDE), dtype=torch.uint8)
    space = LatentSpace([0.0] * channels, [1.0] * channels, lambda: codec)
    on_latents, weights = step(
        of_latents, space, torch.randn(BATCH, 2 * channels, side, side).half()
    )
    on_pixels, same = step(of_pixels, Pixels(), images)
    x0 = encode(images.to(memory_format=torch.channels_last))
    with torch.no_grad():
        latents = codec.encode(x0).mean
    stages = {
        f"a step on latents of {channels} x {side} x {side}": on_latents,
        f"a step on images of 3 x {SIDE} x {SIDE}": on_pixels,
        "encoding a batch": torch.no_grad()(lambda: codec.encode(x0)),
        "decoding a batch": torch.no_grad()(lambda: codec.decode(latents)),
    }
    measured: dict[str, list[float]] = {name: [] for name in stages}
    for round_ in range(
        1 + ROUNDS
    ):  # interleaved, so that a change of the machine's speed hits all
        for name, work in stages.items():
            spent = seconds(work)
            if round_:  # the first is for warming up
                measured[name].append(spent)
    base = median(next(iter(measured.values())))
    print(f"{weights:,} weights on latents, {same:,} on images; {BATCH} images a step")
    for name, values in measured.items():
        print(f"{name:<36} {median(values) * 1e3:8.1f} ms  x {median(values) / base:.2f}")


if __name__ == "__main__":
    main()
