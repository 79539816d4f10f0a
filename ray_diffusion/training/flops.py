"""What a network costs in arithmetic, counted, and the most that a device could do of it."""

import time
from functools import cache

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ray_diffusion.config import Config
from ray_diffusion.config.diffusion import Diffusion
from ray_diffusion.config.schema import Data, Model
from ray_diffusion.diffusion.random import generator
from ray_diffusion.models.build import build

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MEASURED_S = 0.2
FIRST_SIDE = 256
TRIES = 3
# Of a product: it is long beside what starting it takes, and short beside the time that a busy
# machine leaves a process alone.
LONG_ENOUGH_S = 0.001


def flops_per_image(config: Config) -> int:
    """Arithmetic of one image in one step, in the forward and the backward pass.

    Counted on torch's meta device, so nothing is computed and no memory taken: matrix products,
    convolutions and attention, beside which all else is little. What
    ``training.activation_checkpointing`` computes again does not count: it is no progress.

    Args:
        config: The run's configuration, with ``model.num_classes`` and ``model.image_channels``
            known.

    Returns:
        FLOPs; a multiplication and its addition are 2.
    """
    return _counted(config.model, config.data.side, config.diffusion.learn_variance)


@cache
def _counted(model: Model, side: int, learn_variance: bool) -> int:
    config = Config(
        model=model,
        data=Data(latent_size=side),  # whatever it is the side of
        diffusion=Diffusion(learn_variance=learn_variance),
    )
    # On the meta device attention is made of products. The kernels of a CPU are unknown to the
    # counter, which would take attention for nothing there.
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        _of_one_image(build(config), model, side).sum().backward()  # type: ignore[no-untyped-call]
    return int(counter.get_total_flops())


def _of_one_image(network: nn.Module, model: Model, side: int) -> Tensor:
    """What a network makes of one image."""
    channels = model.image_channels
    assert channels is not None
    x = torch.empty(1, channels, side, side)
    if model.learns_codec:
        within = side // model.latent_factor
        x0_hat: Tensor = network(x, torch.empty(1, model.latent_channels, within, within)).x0_hat
        return x0_hat
    prediction: Tensor = network(x, torch.empty(1), torch.empty(1, dtype=torch.int64))
    return prediction


def peak_tflops(config: Config, device: torch.device) -> float:
    """The speed that ``train/mfu`` is a share of: as configured, else as measured here.

    Args:
        config: The run's configuration.
        device: Where the run trains.

    Returns:
        TFLOP/s in ``training.precision``.
    """
    known = config.cluster.peak_tflops
    return matmul_tflops(device, config.training.precision) if known is None else known


def peak_images_per_second(config: Config, device: torch.device) -> float:
    """How fast a worker would train if all its device did were the network's products."""
    return peak_tflops(config, device) * 1e12 / flops_per_image(config)


def matmul_tflops(device: torch.device, precision: str) -> float:
    """The most that a device reaches in a product of matrices, measured in a fraction of a second.

    It is what this process reaches with its threads. On a GPU convolutions of an fp32 run may take
    TF32 and be beyond it.

    Args:
        device: Where to measure.
        precision: ``training.precision``.

    Returns:
        TFLOP/s of the fastest product.
    """
    side, quickest = FIRST_SIDE, 0.0
    while quickest < LONG_ENOUGH_S:
        side *= 2
        # Of random numbers: a GPU is faster at ones, which take less power.
        draws = torch.randn(side, side, generator=generator("peak", device=device), device=device)
        factor = draws.to(DTYPES[precision])
        quickest = min(_seconds(factor) for _ in range(TRIES))  # the first loads the kernel
    until = time.perf_counter() + MEASURED_S
    while time.perf_counter() < until:
        quickest = min(quickest, _seconds(factor))
    return 2 * side**3 / quickest / 1e12


def _seconds(factor: Tensor) -> float:
    started = time.perf_counter()
    (factor @ factor)[0, 0].item()  # waits for the device
    return time.perf_counter() - started
