"""From configuration to a network."""

from collections.abc import Callable

import torch
from torch import nn

from ray_diffusion.config import Config
from ray_diffusion.models.blocks import recompute_activations
from ray_diffusion.models.codecs.autoencoder import Autoencoder
from ray_diffusion.models.dit import DiT
from ray_diffusion.models.reconstructor import Discriminator, Reconstructor
from ray_diffusion.models.tiny import Tiny
from ray_diffusion.models.tutorial_unet import TutorialUNet
from ray_diffusion.models.unet import UNet


def _ends(config: Config) -> tuple[int, int, int]:
    """Channels that go in, channels that come out, and classes."""
    model = config.model
    # Resolved against the dataset before anything is built.
    assert model.image_channels is not None
    assert model.num_classes is not None
    predictions = 2 if config.diffusion.learn_variance else 1
    return model.image_channels, predictions * model.image_channels, model.num_classes


def _unet(config: Config) -> nn.Module:
    model = config.model
    return UNet(
        *_ends(config),
        model.channels,
        model.channel_mults,
        model.blocks_per_level,
        model.attention_levels,
        model.dropout,
    )


def _tutorial_unet(config: Config) -> nn.Module:
    return TutorialUNet(*_ends(config), config.model.channels, config.model.channel_mults)


def _dit(config: Config) -> nn.Module:
    model = config.model
    return DiT(*_ends(config), model.channels, model.depth, model.patch_size, config.data.side)


def _tiny(config: Config) -> nn.Module:
    return Tiny(*_ends(config), config.model.channels)


def _autoencoder(config: Config) -> nn.Module:
    model = config.model
    assert model.image_channels is not None
    autoencoder = Autoencoder(
        model.image_channels,
        model.latent_channels,
        model.channels,
        model.channel_mults,
        model.blocks_per_level,
        model.patch_size,
    )
    adversarial = config.autoencoder.adversarial_weight > 0
    discriminator = Discriminator(model.image_channels, model.channels) if adversarial else None
    return Reconstructor(autoencoder, discriminator)


DENOISERS: dict[str, Callable[[Config], nn.Module]] = {
    "unet": _unet,
    "tutorial_unet": _tutorial_unet,
    "dit": _dit,
    "tiny": _tiny,
}
MODELS = DENOISERS | {"autoencoder": _autoencoder}


def build(config: Config, seed: int | None = None) -> nn.Module:
    """Build the network that a configuration describes.

    Args:
        config: The run's configuration, with ``model.num_classes`` and
            ``model.image_channels`` known.
        seed: Seeds the initial weights; None where they will be loaded anyway.

    Returns:
        The network, in channels_last memory format, with ``training.activation_checkpointing`` as
        configured. It returns as many channels as an image has, or twice as many where
        ``diffusion.learn_variance`` is set.
    """
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        network = MODELS[config.model.kind](config)
    if config.training.activation_checkpointing:
        recompute_activations(network)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
