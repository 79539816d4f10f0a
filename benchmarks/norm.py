"""What GroupNorm and attention cost inside the U-Net's step, and what our ways around torch's gain.

Each stage's time against our step's, forward and backward, on one thread, in CPU time (machines are
shared), interleaved::

    python benchmarks/norm.py

"as torch has it" takes torch's own kernels throughout; "no norms" leaves out every norm and SiLU:
no kernel for them, however fast, could do better than that.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from statistics import median
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_diffusion import config as configs
from ray_diffusion.config import Config
from ray_diffusion.models import attention, norm
from ray_diffusion.models.build import build

ROUNDS = 3
NETS = {  # keys, images a step
    "digits": (["digits"], {"model.num_classes": 10, "model.image_channels": 1}, 128),
    "ddpm-cifar10": (["ddpm-cifar10"], {"model.num_classes": 0, "model.image_channels": 3}, 16),
}


def unchanged(_: norm.GroupNorm, input: Tensor) -> Tensor:
    return input


VARIANTS: dict[str, tuple[tuple[object, str, object], ...]] = {
    "ours": (),
    "as torch has it": ((norm, "VECTOR", 0), (attention, "FEW", 0)),
    "  norms alone": ((norm, "VECTOR", 0),),
    "  attention alone": ((attention, "FEW", 0),),
    "no norms": ((norm.GroupNorm, "forward", unchanged), (F, "silu", lambda x, inplace=False: x)),
}


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def steps(config: Config, batch: int, precision: str) -> dict[str, Callable[[], object]]:
    """A forward and backward pass in each variant."""
    network, size = build(config, seed=0), config.data.image_size
    x_t = torch.randn(batch, config.model.image_channels or 1, size, size)
    logsnr, condition = torch.linspace(-5, 5, batch), torch.zeros(batch, dtype=torch.int64)

    def step(changes: tuple[tuple[object, str, object], ...]) -> None:
        network.zero_grad()
        with ExitStack() as stack:
            for place, name, value in changes:
                stack.enter_context(patch.object(place, name, value))
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                prediction = network(x_t, logsnr, condition)
            prediction.float().square().mean().backward()

    return {name: lambda changes=changes: step(changes) for name, changes in VARIANTS.items()}


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    for name, (arguments, keys, batch) in NETS.items():
        config = configs.override(configs.load(arguments), keys)
        for precision in ("fp32", "bf16"):
            works = steps(config, batch, precision)
            measured: dict[str, list[float]] = {variant: [] for variant in works}
            for _ in range(ROUNDS):
                for variant, work in works.items():
                    measured[variant].append(seconds(work))
            base = median(measured["ours"])
            print(f"{name}, {precision}, {batch} images")
            for variant, values in measured.items():
                print(
                    f"  {variant:<20} {median(values) * 1e3:8.0f} ms  x {median(values) / base:.2f}"
                )


if __name__ == "__main__":
    main()
