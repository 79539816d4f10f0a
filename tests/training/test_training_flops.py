"""Counted arithmetic against closed forms, and the measured peak against a clock that is known."""

import math
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_config import RESOLVED
from torch import Tensor, nn

from ray_diffusion import config as configs
from ray_diffusion.config import Config
from ray_diffusion.models.build import build
from ray_diffusion.training import flops
from ray_diffusion.training.flops import flops_per_image, matmul_tflops, peak_tflops

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


def configured(**keys: object) -> Config:
    return configs.override(Config(), {**RESOLVED, "data.image_size": 16} | keys)


def test_two_convolutions_cost_what_their_formula_says():
    pixels, width, channels = 16 * 16, 24, 1
    conv_in = conv_out = 2 * pixels * width * channels * 3 * 3
    level = 2 * width
    # Images and noise levels get no gradient, so the first layers have one product less.
    expected = 2 * conv_in + 3 * conv_out + 2 * level
    found = flops_per_image(configured(**{"model.kind": "tiny", "model.channels": width}))
    assert found == expected


@pytest.mark.parametrize(("patch", "width", "depth"), [(2, 64, 3), (4, 128, 1)])
def test_a_transformer_costs_what_its_formula_says(patch: int, width: int, depth: int):
    keys = {"model.kind": "dit", "model.depth": depth, "model.patch_size": patch}
    tokens, square = (16 // patch) ** 2, patch**2 * RESOLVED["model.image_channels"]
    block = tokens * (3 + 1 + 4 + 4) * width**2 + 6 * width**2  # qkv, out, MLP; modulation
    attention = 2 * tokens**2 * width  # queries with keys, weights with values
    ends = tokens * width * square + 2 * width**2 + width**2  # out, modulation; level's second
    first = tokens * width * square + 256 * width  # patches and waves, which get no gradient
    expected = 2 * (3 * (depth * (block + attention) + ends) + 2 * first)
    assert flops_per_image(configured(**keys, **{"model.channels": width})) == expected


def _forward_flops(config: Config) -> tuple[int, int]:
    """Of all of a U-Net, and of the layers that see an input; from the shapes that go through."""
    found: dict[str, int] = {}

    def counted(name: str, layer: nn.Conv2d | nn.Linear) -> None:
        def hook(layer: nn.Module, _: tuple[Tensor], out: Tensor) -> None:
            found[name] = 2 * out.numel() * layer.weight[0].numel()
            if name.endswith("qkv"):
                _, tokens, width = out.shape
                found[f"{name}, attention"] = 4 * tokens**2 * (width // 3)

        layer.register_forward_hook(hook)

    network = build(config)
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            counted(name, layer)
    side = config.data.image_size
    with torch.no_grad():
        network(torch.zeros(1, 1, side, side), torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    return sum(found.values()), found["conv_in"] + found["logsnr_embedding.mlp.0"]


def test_backward_costs_twice_as_much_as_forward_but_for_the_first_layers():
    keys = {"model.channels": 16, "model.channel_mults": (1, 2), "model.attention_levels": (0, 1)}
    config = configured(**keys)
    forward, first = _forward_flops(config)
    assert flops_per_image(config) == 3 * forward - first


def test_what_is_computed_again_in_the_backward_pass_does_not_count():
    again = configured(**{"training.activation_checkpointing": True})
    assert flops_per_image(again) == flops_per_image(configured())


def test_variance_costs_twice_the_last_layer():
    keys = {"model.kind": "tiny", "model.channels": 24}
    more = configured(**keys, **{"diffusion.learn_variance": True})
    assert flops_per_image(more) - flops_per_image(configured(**keys)) == 3 * 2 * 256 * 24 * 9


def test_counting_takes_no_memory_whatever_the_size():
    keys = {"model.kind": "dit", "model.channels": 8192, "model.depth": 2}  # 6 GB of weights
    assert flops_per_image(configured(**keys)) > 1e12 / 4


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_the_peak_is_that_of_the_fastest_product(
    monkeypatch: pytest.MonkeyPatch, precision: str, dtype: torch.dtype
):
    durations = iter([0.009, 0.0004, 0.002, 0.05, 0.004, 0.007, 0.03, 0.002, 0.1, 0.1])
    factors, now = [], 0.0

    def seconds(factor: Tensor) -> float:
        nonlocal now
        factors.append((len(factor), factor.dtype))
        now += (took := next(durations))
        return took

    monkeypatch.setattr(flops, "_seconds", seconds)
    monkeypatch.setattr(flops.time, "perf_counter", lambda: now)
    # Side 512 takes less than a millisecond, too short to be measured by; so 1024, at its best 2.
    assert matmul_tflops(CPU, precision) == pytest.approx(2 * 1024**3 / 0.002 / 1e12)
    assert factors == 3 * [(512, dtype)] + 7 * [(1024, dtype)]


def test_a_device_has_a_peak():
    found = matmul_tflops(CPU, "fp32")
    assert math.isfinite(found)
    assert found > 0


def test_a_configured_peak_is_not_measured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(flops, "matmul_tflops", lambda device, precision: {"bf16": 7.0}[precision])
    keys = {"training.precision": "bf16"}
    assert peak_tflops(configured(**keys), CPU) == 7.0
    assert peak_tflops(configured(**keys, **{"cluster.peak_tflops": 989.0}), CPU) == 989.0


@pytest.fixture(scope="module")
def arithmetic() -> dict[str, Any]:
    """What benchmarks/arithmetic.py defines."""
    return runpy.run_path(str(ROOT / "benchmarks" / "arithmetic.py"))


def test_the_tables_of_the_operations_page_are_what_the_program_prints(arithmetic: dict[str, Any]):
    page = (ROOT / "docs" / "operations.md").read_text()
    _, begun, rest = page.partition("<!-- printed by benchmarks/arithmetic.py -->\n")
    shown, ended, _ = rest.partition("\n<!-- end -->")
    assert begun
    assert ended
    assert shown == arithmetic["tables"]()


def test_the_largest_transformer_has_its_published_cost(arithmetic: dict[str, Any]):
    *_, latents = arithmetic["RECIPES"]
    size = arithmetic["size_of"](latents.config)
    assert size.flops / 2 / 3 == pytest.approx(118.64e9, rel=0.01)  # Peebles and Xie, table 1
    assert size.parameters == pytest.approx(675e6, rel=0.01)


def test_the_sum_over_workers_is_a_rings(arithmetic: dict[str, Any]):
    _, imagenet, _ = arithmetic["RECIPES"]
    step = arithmetic["step_of"](imagenet, arithmetic["Size"](parameters=1000, flops=1), 64)
    assert step.volume == 2 * 63 / 64 * 4000
    assert step.all_reduce == pytest.approx(step.volume / (400e9 * 0.7))
