"""From configuration to a network."""

from collections.abc import Callable

import torch
from torch import nn

from ray_diffusion.config import Config
from ray_diffusion.models.unet import UNet


def _unet(config: Config) -> nn.Module:
    model = config.model
    # Resolved against the dataset before anything is built.
    assert model.num_classes is not None
    assert model.image_channels is not None
    return UNet(
        model.image_channels,
        model.num_classes,
        model.channels,
        model.channel_mults,
        model.blocks_per_level,
        model.attention_levels,
    )


MODELS: dict[str, Callable[[Config], nn.Module]] = {"unet": _unet}


def build(config: Config, seed: int | None = None) -> nn.Module:
    """Build the network that a configuration describes.

    Args:
        config: The run's configuration, with ``model.num_classes`` and
            ``model.image_channels`` known.
        seed: Seeds the initial weights; None where they will be loaded anyway.

    Returns:
        The network, in channels_last memory format.
    """
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        network = MODELS[config.model.kind](config)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
