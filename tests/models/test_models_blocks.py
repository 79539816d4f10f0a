"""What is done to the repeated blocks of a network changes no weight, and no result."""

import copy
from collections.abc import Callable

import pytest
import torch
from test_models_build import configured, every_kind, inputs
from torch import Tensor, nn
from torch._dynamo.utils import counters

from ray_diffusion.config import Config
from ray_diffusion.models.blocks import blocks_of, compile_network
from ray_diffusion.models.build import build
from ray_diffusion.models.dropout import dropout_of

CPU = torch.device("cpu")
REPEATED = ["unet", "dit", "tutorial_unet"]


def pair(kind: str) -> tuple[Config, nn.Module, nn.Module]:
    """A network, and one of the same weights that computes its activations again."""
    dropout = {"model.dropout": 0.3} if kind == "unet" else {}
    run = configured(kind, **dropout)
    again = configured(kind, **dropout, **{"training.activation_checkpointing": True})
    plain, frugal = build(run, seed=0), build(again, seed=0)
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in plain.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1, generator=draws)
    frugal.load_state_dict(plain.state_dict())  # their weights have the same names
    return run, plain, frugal


def trained_on(network: nn.Module, run: Config, precision: torch.dtype) -> list[Tensor]:
    """The prediction and all gradients."""
    network.zero_grad()
    bf16 = precision == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16), dropout_of("drop", device=CPU):
        prediction = network(*inputs(run))
    torch.rand(7)  # the generator has moved on when activations are computed again
    prediction.float().square().mean().backward()
    gradients = [p.grad for p in network.parameters()]
    assert all(gradient is not None for gradient in gradients)
    return [prediction, *(gradient for gradient in gradients if gradient is not None)]


def bytes_kept(work: Callable[[], Tensor]) -> int:
    """Bytes of the activations that a forward pass keeps for the backward pass."""
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes if not isinstance(tensor, nn.Parameter) else 0
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        work()
    return kept


@pytest.mark.parametrize("kind", REPEATED)
def test_blocks_hold_most_weights_and_none_holds_another(kind: str):
    network = build(configured(kind, **{"model.channels": 32}))
    blocks = blocks_of(network)
    within = [parameter for block in blocks for parameter in block.parameters()]
    assert len({id(parameter) for parameter in within}) == len(within)
    everything = sum(parameter.numel() for parameter in network.parameters())
    assert sum(parameter.numel() for parameter in within) > 0.5 * everything


def test_a_network_that_repeats_nothing_has_no_blocks():
    assert blocks_of(build(configured("tiny"))) == []


def test_a_transformer_has_a_block_for_each_step_of_its_depth():
    assert len(blocks_of(build(configured("dit", **{"model.depth": 5})))) == 5


@every_kind
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_activations_computed_again_give_the_same_gradients_to_the_bit(
    kind: str, precision: torch.dtype
):
    run, plain, frugal = pair(kind)
    for found, wanted in zip(
        trained_on(frugal, run, precision), trained_on(plain, run, precision), strict=True
    ):
        assert found.equal(wanted)


@pytest.mark.parametrize("kind", REPEATED)
def test_a_network_that_computes_again_keeps_little(kind: str):
    run, plain, frugal = pair(kind)
    assert bytes_kept(lambda: frugal(*inputs(run))) < 0.5 * bytes_kept(lambda: plain(*inputs(run)))


@every_kind
def test_a_copy_computes_again_with_its_own_weights(kind: str):
    run, plain, frugal = pair(kind)
    wanted, copied = trained_on(plain, run, torch.float32), copy.deepcopy(frugal)
    with torch.no_grad():
        for parameter in frugal.parameters():
            parameter.zero_()
    for found, expected in zip(trained_on(copied, run, torch.float32), wanted, strict=True):
        assert found.equal(expected)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of torch's own compiler
def test_a_compiled_network_predicts_the_same_and_its_copies_are_not_compiled():
    run = configured("dit", **{"model.depth": 3})
    plain = build(run, seed=0).requires_grad_(False)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(0.05)
    network, names = copy.deepcopy(plain), list(plain.state_dict())
    compile_network(network, CPU)
    counters["stats"].clear()
    with torch.compiler.set_stance(force_backend="aot_eager"):  # which needs no C++ compiler
        found = network(*inputs(run))
    assert counters["stats"]["unique_graphs"] == 1  # blocks of one shape share it
    torch.testing.assert_close(found, plain(*inputs(run)), rtol=1e-4, atol=1e-5)
    assert list(network.state_dict()) == names
    assert copy.deepcopy(network)(*inputs(run)).equal(plain(*inputs(run)))
