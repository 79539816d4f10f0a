import pytest
import torch
from test_models_build import configured, every_kind, inputs, trained
from torch import Tensor, nn

from ray_diffusion.models.codecs.space import Pixels
from ray_diffusion.models.draw import draw
from ray_diffusion.models.precision import in_bf16


@every_kind
def test_a_network_in_bf16_predicts_the_same_up_to_its_rounding(kind: str):
    run = configured(kind)
    network, (x_t, logsnr, condition) = trained(run), inputs(run, 9)
    with torch.no_grad():
        exact = network(x_t, logsnr, condition)
        rounded = in_bf16(network)(x_t, logsnr, condition)
    assert rounded.dtype == x_t.dtype
    assert 0 < (rounded - exact).norm() < 0.03 * exact.norm()  # an epsilon is 0.008


@every_kind
def test_the_networks_own_weights_stay_as_they_are(kind: str):
    network = trained(configured(kind))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    in_bf16(network)
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("kind", ["unet", "dit", "tutorial_unet"])
def test_a_network_in_bf16_is_told_the_exact_noise_level(kind: str):
    run = configured(kind)
    network, told = trained(run), list[Tensor]()
    network.logsnr_embedding.mlp.register_forward_pre_hook(lambda _, waves: told.append(*waves))
    in_bf16(network)(*inputs(run))
    network(*inputs(run))
    assert told[0].equal(told[1])


@every_kind
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_layer_draws_in_the_precision_asked_for(kind: str, precision: str):
    run = configured(kind, **{"sampler.precision": precision, "sampler.num_inference_steps": 2})
    network, seen = trained(run), set[torch.dtype]()

    def note(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        seen.update((layer.weight.dtype, output.dtype))

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(note)  # a copy has it too
    draw(network, run, Pixels(), torch.arange(3), seed=0)
    assert seen == {torch.float32 if precision == "fp32" else torch.bfloat16}


@every_kind
def test_images_drawn_in_bf16_are_nearly_those_of_fp32(kind: str):
    run = configured(kind, **{"sampler.num_inference_steps": 5})
    rounding = configured(kind, **{"sampler.precision": "bf16", "sampler.num_inference_steps": 5})
    network, labels = trained(run, steps=20), torch.arange(8)
    exact, rounded, other = (
        draw(network, config, Pixels(), labels, seed).float()
        for config, seed in ((run, 0), (rounding, 0), (run, 1))
    )
    assert 0 < (rounded - exact).abs().mean() < 0.05 * (other - exact).abs().mean()
