"""The networks of the tutorials have the tutorials' blocks."""

import pytest
import torch
from test_models_build import configured, inputs

from ray_diffusion.models.build import build


def parameters_of(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def conv(inside: int, outside: int, side: int, bias: bool) -> int:
    return inside * outside * side**2 + (outside if bias else 0)


def linear(inside: int, outside: int) -> int:
    return inside * outside + outside


def norm(channels: int) -> int:
    return 2 * channels


def double_conv(inside: int, outside: int, middle: int | None = None) -> int:
    middle = middle or outside
    first = conv(inside, middle, 3, bias=False) + norm(middle)
    return first + conv(middle, outside, 3, bias=False) + norm(outside)


def down(inside: int, outside: int) -> int:
    return double_conv(inside, inside) + double_conv(inside, outside) + linear(256, outside)


def up(inside: int, outside: int) -> int:
    convs = double_conv(inside, inside) + double_conv(inside, outside, inside // 2)
    return convs + linear(256, outside)


def attention(channels: int) -> int:
    heads = linear(channels, 3 * channels) + linear(channels, channels)
    return norm(channels) + heads + norm(channels) + 2 * linear(channels, channels)


def test_the_tutorials_unet_has_the_tutorials_blocks():
    blocks = (
        double_conv(3, 64)
        + down(64, 128) + attention(128)
        + down(128, 256) + attention(256)
        + down(256, 256) + attention(256)
        + double_conv(256, 256) + double_conv(256, 256)
        + up(512, 128) + attention(128)
        + up(256, 64) + attention(64)
        + up(128, 64) + attention(64)
        + conv(64, 3, 1, bias=True)
        + 10 * 256  # an embedding of ten labels
    )  # fmt: skip
    ours = linear(64, 256) + linear(256, 256) + 256  # of the noise level, and of "no class"
    keys = {
        "model.channels": 64,
        "model.channel_mults": [1, 2, 4, 4],
        "model.image_channels": 3,
        "data.image_size": 64,
    }
    with torch.device("meta"):
        network = build(configured("tutorial_unet", **keys))
    assert parameters_of(network) == blocks + ours


def test_the_tiny_network_has_the_tutorials_layers():
    layers = conv(3, 16, 3, bias=True) + linear(1, 16) + conv(16, 3, 3, bias=True)
    keys = {"model.channels": 16, "model.image_channels": 3, "model.num_classes": 0}
    network = build(configured("tiny", **keys))
    assert parameters_of(network) == layers + 16  # ours: "no class"


@pytest.mark.parametrize("what", ["logsnr", "class"])
def test_level_and_class_shift_the_tiny_networks_prediction_the_same_for_all_images(what: str):
    run = configured("tiny")
    network = build(run, seed=0)
    x_t, logsnr, condition = inputs(run)
    base, empty = network(x_t, logsnr, condition), network(0 * x_t, logsnr, condition)
    if what == "logsnr":
        logsnr = logsnr + 3
    else:
        condition = condition + 1
    shift = network(x_t, logsnr, condition) - base
    torch.testing.assert_close(network(0 * x_t, logsnr, condition) - empty, shift)
    assert shift.abs().max() > 1e-2
