"""The arithmetic in which a network draws."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ray_diffusion.diffusion.objective import Network


def in_fp32(network: nn.Module) -> Network:
    """The network as it is."""
    return network


def in_bf16(network: nn.Module) -> Network:
    """A network that computes in bfloat16, with a copy of the weights rounded to it.

    Args:
        network: The network; stays as it is.

    Returns:
        A function of what the network takes; its prediction has the dtype of ``x_t``.
    """
    rounded = copy.deepcopy(network)
    for parameter in rounded.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)

    def predict(x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Tensor:
        # The frequencies of noise levels and places are no parameters and stay float32: rounded,
        # they would tell of others. What is made of them is cast.
        with torch.autocast(x_t.device.type, torch.bfloat16):
            return rounded(x_t, logsnr, condition).to(x_t.dtype)  # type: ignore[no-any-return]

    return predict


PRECISIONS: dict[str, Callable[[nn.Module], Network]] = {"fp32": in_fp32, "bf16": in_bf16}
