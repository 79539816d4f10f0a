"""What every network promises, whatever its kind."""

import pytest
import torch
from torch import Tensor, nn

from ray_diffusion import config
from ray_diffusion.config import Config
from ray_diffusion.diffusion.random import generator
from ray_diffusion.models.build import DENOISERS, build

SHAPES: dict[str, dict[str, object]] = {
    "default": {},
    "a width that 32 does not divide": {"model.channels": 72, "model.blocks_per_level": 1},
    "no classes": {"model.num_classes": 0},
    "colour": {"model.image_channels": 3},
    "five channels": {"model.image_channels": 5},
    "learned variance": {"model.image_channels": 3, "diffusion.learn_variance": True},
}
ODD = {"model.channel_mults": [3, 1, 5], "model.blocks_per_level": 1}
SHAPES_OF: dict[str, dict[str, dict[str, object]]] = {
    "unet": {
        "one level": {"model.channel_mults": [1], "model.attention_levels": []},
        "odd multiples": ODD,
        "no attention": {"model.attention_levels": []},
        "attention everywhere": {"model.attention_levels": [0, 1]},
        "dropout": {"model.dropout": 0.5},
    },
    "tutorial_unet": {"odd multiples": ODD},
    "dit": {
        "pixels for patches": {"model.patch_size": 1},
        "the image for a patch": {"model.patch_size": 8},
    },
}
CASES = [
    pytest.param(kind, shape, id=f"{kind}, {name}")
    for kind in DENOISERS
    for name, shape in (SHAPES | SHAPES_OF.get(kind, {})).items()
]
every_shape = pytest.mark.parametrize(("kind", "shape"), CASES)
every_kind = pytest.mark.parametrize("kind", DENOISERS)


def configured(kind: str = "unet", **keys: object) -> Config:
    """A small network for images of 8 pixels in ten classes, unless ``keys`` say otherwise."""
    tiny = {
        "model.channels": 8,
        "model.depth": 2,
        "model.num_classes": 10,
        "model.image_channels": 1,
    }
    return config.override(Config(), tiny | {"model.kind": kind} | keys)


def inputs(run: Config, batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    model, draw = run.model, generator("network test")
    shape = (batch, model.image_channels, run.data.image_size, run.data.image_size)
    classes = torch.arange(batch) % (model.num_classes + 1)
    return torch.randn(shape, generator=draw), torch.linspace(-20, 10, batch).double(), classes


def predictions(run: Config) -> int:
    """How many numbers a network says about each of an image's."""
    return 2 if run.diffusion.learn_variance else 1


def trained(run: Config, steps: int = 5) -> torch.nn.Module:
    """A network after a few steps towards a target that depends on all of its inputs."""
    network = build(run, seed=0)
    x_t, logsnr, condition = inputs(run, 16)
    target = x_t * (logsnr.float() / 10 + condition).view(-1, 1, 1, 1)
    target = target.repeat(1, predictions(run), 1, 1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        (network(x_t, logsnr, condition) - target).square().mean().backward()
        optimizer.step()
    return network.eval()


@every_shape
def test_a_prediction_has_the_shape_of_its_image(kind: str, shape: dict[str, object]):
    run = configured(kind, **shape)
    x_t, logsnr, condition = inputs(run)
    with torch.no_grad():
        prediction = build(run, seed=0)(x_t, logsnr, condition)
    batch, channels, *sides = x_t.shape
    assert prediction.shape == (batch, channels * predictions(run), *sides)
    assert prediction.dtype == torch.float32


@pytest.mark.parametrize("side", [4, 8, 20])
@every_kind
def test_a_network_takes_images_of_any_side_that_its_levels_divide(kind: str, side: int):
    run = configured(kind, **{"data.image_size": side, "model.channel_mults": [1, 2, 1]})
    x_t, logsnr, condition = inputs(run)
    assert build(run, seed=0)(x_t, logsnr, condition).shape == x_t.shape


@every_shape
def test_a_network_on_meta_has_the_parameters_of_the_real_one(kind: str, shape: dict[str, object]):
    run = configured(kind, **shape)
    with torch.device("meta"):
        planned = build(run, seed=0)
    real = build(run, seed=0)
    assert all(parameter.is_meta for parameter in planned.parameters())
    assert {n: p.shape for n, p in planned.named_parameters()} == {
        n: p.shape for n, p in real.named_parameters()
    }


@pytest.mark.parametrize(
    ("kind", "shape"), [case for case in CASES if case.values[0] in ("unet", "dit")]
)
def test_a_new_network_predicts_zero(kind: str, shape: dict[str, object]):
    run = configured(kind, **shape)
    assert (build(run, seed=0)(*inputs(run)) == 0).all()


@every_kind
def test_every_input_matters_after_a_few_steps(kind: str):
    run = configured(kind)
    network = trained(run)
    x_t, logsnr, condition = inputs(run)
    base = network(x_t, logsnr, condition)
    for other in (
        (x_t.flip(-1), logsnr, condition),
        (x_t, logsnr + 1, condition),
        (x_t, logsnr, condition + 1),
    ):
        assert (network(*other) - base).abs().max() > 1e-3


@every_kind
def test_no_class_is_a_class_of_its_own(kind: str):
    network = trained(configured(kind), steps=20)
    x_t, logsnr, _ = inputs(configured(kind), 11)
    same = (x_t[:1].expand(11, -1, -1, -1), logsnr[:1].expand(11))
    predicted = network(*same, torch.arange(11))
    assert all((predicted[10] - other).abs().max() > 1e-3 for other in predicted[:10])


@every_kind
def test_levels_beyond_those_that_an_image_shows_are_all_the_same(kind: str):
    network = trained(configured(kind))
    x_t, _, condition = inputs(configured(kind), 6)
    x_t, condition = x_t[:1].expand(6, -1, -1, -1), condition[:1].expand(6)
    least, less, above, below, more, most = network(
        x_t, torch.tensor([-36.0, -20.0, -19.0, 19.0, 20.0, 36.0]), condition
    )
    assert least.equal(less)
    assert more.equal(most)
    assert (above - less).abs().max() > 1e-4
    assert (below - more).abs().max() > 1e-4


@every_shape
def test_gradients_reach_every_parameter_after_a_few_steps(kind: str, shape: dict[str, object]):
    run = configured(kind, **shape)
    network = trained(run)
    network.zero_grad()
    network(*inputs(run, 16)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@every_kind
def test_bf16_predicts_the_same_up_to_its_rounding(kind: str):
    run = configured(kind)
    network = trained(run)
    exact = network(*inputs(run))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(*inputs(run))
    assert 0 < (rounded.float() - exact).norm() < 0.03 * exact.norm()  # an epsilon is 0.008


@every_kind
def test_examples_of_a_batch_do_not_mix(kind: str):
    run = configured(kind)
    network = trained(run)
    x_t, logsnr, condition = inputs(run, 4)
    together = network(x_t, logsnr, condition)
    for i in range(4):
        row = slice(i, i + 1)
        alone = network(x_t[row], logsnr[row], condition[row])
        # Kernels may add in another order for another batch size.
        torch.testing.assert_close(alone, together[row], rtol=1e-4, atol=1e-5)


@every_kind
def test_initial_weights_follow_from_the_seed_and_leave_the_global_generator_alone(kind: str):
    run, before = configured(kind), torch.get_rng_state()
    first, again, other = (build(run, seed).state_dict() for seed in (0, 0, 1))
    assert torch.get_rng_state().equal(before)
    assert all(first[name].equal(again[name]) for name in first)
    assert any(not first[name].equal(other[name]) for name in first)


@every_kind
def test_networks_are_laid_out_channels_last(kind: str):
    weights = [p for p in build(configured(kind)).parameters() if p.ndim == 4]
    assert weights
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@every_kind
def test_activations_stay_channels_last(kind: str, precision: str):
    run = configured(kind, **{"model.channels": 16})
    network, others = build(run, seed=0), []

    def note(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        if output.ndim == 4 and not output.is_contiguous(memory_format=torch.channels_last):
            others.append(layer)

    for module in network.modules():
        if module is not network:  # a transformer lays its patches out as an image at the end
            module.register_forward_hook(note)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        network(*inputs(run))
    assert others == []
