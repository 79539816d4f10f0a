"""The blocks that a network repeats, and what is done to each of them alike."""

from types import MethodType

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ray_diffusion.models import dit, tutorial_unet, unet
from ray_diffusion.models.codecs import autoencoder

KINDS = (
    unet.Stage,
    dit.Block,
    tutorial_unet.Down,
    tutorial_unet.Up,
    autoencoder.ResidualBlock,
)
# torch compiles a kind of block once for each width and side, and gives up after 8 by itself.
MOST_VARIANTS = 64


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """Where nearly all the work and the weights of a network are, in pieces of like size.

    Args:
        network: What ``build`` returned, or a copy of it.

    Returns:
        Its stages, transformer blocks, or ways down and up, none inside another; empty if it
        repeats nothing.
    """
    return [module for module in network.modules() if isinstance(module, KINDS)]


def recompute_activations(network: nn.Module) -> None:
    """Let the backward pass compute each block's activations again (Chen et al., arXiv:1604.06174).

    Between the passes a block keeps its inputs alone. Losses and gradients stay the same to the
    bit, also where the network drops, as do the names of the weights; copies do likewise.

    Args:
        network: Changed in place.
    """
    for block in blocks_of(network):
        # A bound method, unlike a closure, is bound anew when its network is copied.
        block.forward = MethodType(_recomputed, block)


def _recomputed(block: nn.Module, *inputs: Tensor) -> Tensor:
    found: Tensor = checkpoint(type(block).forward, block, *inputs, use_reentrant=False)
    return found


def compile_network(network: nn.Module, device: torch.device) -> None:
    """Let torch compile a network at its next call: all of it on a GPU, else block by block.

    All of a large network takes minutes of a CPU, and its blocks share what was compiled for one
    another. The names of the weights stay, and copies are not compiled.

    Args:
        network: Changed in place.
        device: Where it runs.
    """
    parts = [network] if device.type == "cuda" else blocks_of(network)
    for part in parts:
        part.compile(recompile_limit=MOST_VARIANTS)
