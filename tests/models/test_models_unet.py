import pytest
import torch
from torch import Tensor

from ray_diffusion import config
from ray_diffusion.config import Config
from ray_diffusion.diffusion.random import generator
from ray_diffusion.models.build import MODELS, build

SHAPES: dict[str, dict[str, object]] = {
    "default": {},
    "one level": {"model.channel_mults": [1], "model.attention_levels": []},
    "odd multiples": {"model.channel_mults": [3, 1, 5], "model.blocks_per_level": 1},
    "no attention": {"model.attention_levels": []},
    "attention everywhere": {"model.attention_levels": [0, 1]},
    "a width that 32 does not divide": {"model.channels": 104, "model.blocks_per_level": 1},
    "no classes": {"model.num_classes": 0},
    "colour": {"model.image_channels": 3},
}


def configured(kind: str = "unet", **keys: object) -> Config:
    """A small network for images of 8 pixels in ten classes, unless ``keys`` say otherwise."""
    tiny = {"model.channels": 8, "model.num_classes": 10, "model.image_channels": 1}
    return config.override(Config(), tiny | {"model.kind": kind} | keys)


def inputs(run: Config, batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    model, draw = run.model, generator("network test")
    shape = (batch, model.image_channels, run.data.image_size, run.data.image_size)
    classes = torch.arange(batch) % (model.num_classes + 1)
    return torch.randn(shape, generator=draw), torch.linspace(-20, 10, batch).double(), classes


def trained(run: Config, steps: int = 5) -> torch.nn.Module:
    """A network after a few steps towards a target that depends on all of its inputs."""
    network = build(run, seed=0)
    x_t, logsnr, condition = inputs(run, 16)
    target = x_t * (logsnr.float() / 10 + condition).view(-1, 1, 1, 1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        (network(x_t, logsnr, condition) - target).square().mean().backward()
        optimizer.step()
    return network.eval()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", MODELS)
def test_a_prediction_has_the_shape_of_its_image(kind: str, shape: dict[str, object]):
    run = configured(kind, **shape)
    x_t, logsnr, condition = inputs(run)
    with torch.no_grad():
        prediction = build(run, seed=0)(x_t, logsnr, condition)
    assert prediction.shape == x_t.shape
    assert prediction.dtype == torch.float32


@pytest.mark.parametrize("side", [4, 8, 20])
@pytest.mark.parametrize("kind", MODELS)
def test_a_network_takes_images_of_any_side_that_its_levels_divide(kind: str, side: int):
    run = configured(kind, **{"data.image_size": side, "model.channel_mults": [1, 2, 1]})
    x_t, logsnr, condition = inputs(run)
    assert build(run, seed=0)(x_t, logsnr, condition).shape == x_t.shape


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", MODELS)
def test_a_network_on_meta_has_the_parameters_of_the_real_one(kind: str, shape: dict[str, object]):
    run = configured(kind, **shape)
    with torch.device("meta"):
        planned = build(run, seed=0)
    real = build(run, seed=0)
    assert all(parameter.is_meta for parameter in planned.parameters())
    assert {n: p.shape for n, p in planned.named_parameters()} == {
        n: p.shape for n, p in real.named_parameters()
    }


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", MODELS)
def test_a_new_network_predicts_zero(kind: str, shape: dict[str, object]):
    run = configured(kind, **shape)
    assert (build(run, seed=0)(*inputs(run)) == 0).all()


@pytest.mark.parametrize("kind", MODELS)
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


@pytest.mark.parametrize("kind", MODELS)
def test_every_parameter_learns(kind: str):
    run = configured(kind)
    before, after = build(run, seed=0), trained(run)
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        assert not old.equal(new), name


@pytest.mark.parametrize("kind", MODELS)
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


@pytest.mark.parametrize("kind", MODELS)
def test_initial_weights_follow_from_the_seed_and_leave_the_global_generator_alone(kind: str):
    run, before = configured(kind), torch.get_rng_state()
    first, again, other = (build(run, seed).state_dict() for seed in (0, 0, 1))
    assert torch.get_rng_state().equal(before)
    assert all(first[name].equal(again[name]) for name in first)
    assert any(not first[name].equal(other[name]) for name in first)


@pytest.mark.parametrize("kind", MODELS)
def test_networks_are_laid_out_channels_last(kind: str):
    weights = [p for p in build(configured(kind)).parameters() if p.ndim == 4]
    assert weights
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
