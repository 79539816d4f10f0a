"""What an autoencoder is trained with: its losses, and a discriminator for what they leave blurred.

The objective is that of Rombach et al. 2022 (arXiv:2112.10752) and their code, but for a mean
over pixels where they sum: the minimum is the same, and the scale is for images of any size.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ray_diffusion.errors import UsageError
from ray_diffusion.models.codecs.autoencoder import Autoencoder
from ray_diffusion.models.codecs.codec import Posterior
from ray_diffusion.models.norm import GroupNorm
from ray_diffusion.models.similarity import kl_to_standard_normal, laplacian_pyramid_l1, ssim
from ray_diffusion.models.unet import NORM_GROUPS

Perceptual = Callable[[Tensor, Tensor], Tensor]
"""``(a, b) -> distances``: images in [-1, 1], shape ``(B, C, H, W)``, to shape ``(B,)``."""


class Weights(NamedTuple):
    """What counts how much beside L1.

    Attributes:
        pyramid: Of ``laplacian_pyramid_l1``.
        ssim: Of ``1 - ssim``.
        perceptual: Of the perceptual distance, if there is one.
        kl: Of the divergence of the latents, summed over them as errors are over pixels.
        adversarial: Of what the discriminator says of reconstructions.
    """

    pyramid: float
    ssim: float
    perceptual: float
    kl: float
    adversarial: float


class Reconstruction(NamedTuple):
    """What has become of images.

    Attributes:
        x0_hat: Images again, float32, shape ``(B, C, H, W)``.
        posterior: What their latents were drawn from, float32.
    """

    x0_hat: Tensor
    posterior: Posterior


class Discriminator(nn.Module):
    """Tells patches of images from patches of reconstructions.

    The PatchGAN of Isola et al. 2017 (arXiv:1611.07004), with group norms in the place of batch
    norms, and with patches of 38 pixels, as theirs of 70 are larger than small images.

    Args:
        image_channels: Channels of an image.
        channels: Width of the first layer, a multiple of 8; each of three layers halves the side,
            and doubles the width.
    """

    def __init__(self, image_channels: int, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(image_channels, channels, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1),
            GroupNorm(NORM_GROUPS, 2 * channels),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * channels, 4 * channels, 4, stride=2, padding=1),
            GroupNorm(NORM_GROUPS, 4 * channels),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * channels, 1, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """How real patches look.

        Args:
            x: Images in [-1, 1], shape ``(B, C, H, W)``, sides of 8 pixels or more.

        Returns:
            Of each patch, above 0 for real, float32, shape ``(B, 1, H / 8, W / 8)``.
        """
        return self.layers(x.contiguous(memory_format=torch.channels_last)).float()  # type: ignore[no-any-return]


class Reconstructor(nn.Module):
    """All that learns while an autoencoder is trained.

    Args:
        autoencoder: What is kept of it in the end.
        discriminator: None where nothing adversarial is wanted.

    Attributes:
        logvar: Log-variance of the reconstruction error, learned: it weighs the error against the
            divergence. Shape ``(1,)``, as weights that are sharded have dimensions.
    """

    def __init__(self, autoencoder: Autoencoder, discriminator: Discriminator | None) -> None:
        super().__init__()
        self.autoencoder, self.discriminator = autoencoder, discriminator
        self.logvar = nn.Parameter(torch.zeros(1))

    def forward(self, x0: Tensor, noise: Tensor) -> Reconstruction:
        """Encode images and decode one draw from their latents.

        Args:
            x0: Images in [-1, 1], shape ``(B, C, H, W)``.
            noise: Standard normal, of the latents' shape.
        """
        mean, logvar = self.autoencoder.encode(x0)
        assert logvar is not None
        posterior = Posterior(mean.float(), logvar.float())
        return Reconstruction(self.autoencoder.decode(posterior.sample(noise)).float(), posterior)


def reconstruction_loss(
    network: Reconstructor,
    x0: Tensor,
    noise: Tensor,
    weights: Weights,
    adversarial: bool,
    perceptual: Perceptual | None = None,
) -> Tensor:
    """What autoencoder and discriminator minimise, each its own part of one number.

    Args:
        network: What is trained.
        x0: Images in [-1, 1], shape ``(B, C, H, W)``.
        noise: Standard normal, of the latents' shape.
        weights: What counts how much.
        adversarial: Whether the discriminator counts and learns yet; if so there is one.
        perceptual: A distance to count too.

    Returns:
        The loss of each example, shape ``(B,)``, float32.
    """
    found: Reconstruction = network(x0, noise)
    x0_hat, (mean, logvar) = found
    assert logvar is not None
    errors = (x0_hat - x0).abs().flatten(1).mean(1)
    if weights.pyramid:
        errors = errors + weights.pyramid * laplacian_pyramid_l1(x0_hat, x0)
    if weights.ssim:
        errors = errors + weights.ssim * (1 - ssim(x0_hat, x0))
    if perceptual is not None:
        errors = errors + weights.perceptual * perceptual(x0_hat, x0)
    kl = kl_to_standard_normal(mean, logvar).flatten(1).sum(1) / x0[0].numel()
    losses = errors * torch.exp(-network.logvar) + network.logvar + weights.kl * kl
    if adversarial:
        assert network.discriminator is not None
        losses = losses + _adversarial_losses(network.discriminator, x0, x0_hat, weights)
    return losses


def _adversarial_losses(
    discriminator: Discriminator, x0: Tensor, x0_hat: Tensor, weights: Weights
) -> Tensor:
    """What reconstructions lack to pass for images, and how badly they are told apart.

    The hinge loss of Lim and Ye 2017 (arXiv:1705.02894). Of the first part only ``x0_hat`` has a
    gradient, of the second only the discriminator, so that one backward pass serves both.
    """
    frozen = {name: weight.detach() for name, weight in discriminator.named_parameters()}
    seems_real = functional_call(discriminator, frozen, (x0_hat,))
    of_real, of_fake = discriminator(x0), discriminator(x0_hat.detach())
    hinge = (F.relu(1 - of_real) + F.relu(1 + of_fake)) / 2
    losses: Tensor = hinge - weights.adversarial * seems_real
    return losses.flatten(1).mean(1)


def perceptual_of(path: Path, name: str) -> Perceptual:
    """The distance of a TorchScript file, such as LPIPS.

    The module is called with two batches of images, float32 in [-1, 1], shape ``(B, C, H, W)``,
    and must return a distance of each pair, shape ``(B,)`` or ``(B, 1, 1, 1)``. It stays as it is,
    while gradients pass through it.

    Args:
        path: The file.
        name: What to call it in messages.

    Returns:
        The distance, wherever the images are.

    Raises:
        UsageError: If there is no such file, or it holds no TorchScript module; the distance
            itself, if the module fails or returns another shape.
    """
    if not path.is_file():
        raise UsageError(f"autoencoder.perceptual_url: there is no file {name}")
    try:
        with warnings.catch_warnings():
            # Of torch.jit; but it is what such networks are handed around as.
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise UsageError(f"autoencoder.perceptual_url: {name} is not a TorchScript file") from error
    for parameter in module.eval().parameters():
        parameter.requires_grad_(False)

    def distances(a: Tensor, b: Tensor) -> Tensor:
        where = f"autoencoder.perceptual_url: {name}, called with two float32 {tuple(a.shape)},"
        try:
            with torch.autocast(a.device.type, enabled=False):
                found: Tensor = module.to(a.device)(a.float(), b.float())
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UsageError(f"{where} failed: {reason}") from error
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if shape not in ((len(a),), (len(a), 1, 1, 1)):
            raise UsageError(
                f"{where} must return shape ({len(a)},) or ({len(a)}, 1, 1, 1), returned {shape}"
            )
        return found.flatten().float()

    return distances
