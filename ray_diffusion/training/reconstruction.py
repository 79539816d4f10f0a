"""What an autoencoder learns: to give images back from latents of a fraction of their size."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ray_diffusion.config import Config
from ray_diffusion.data.reader import Batch, Dataset
from ray_diffusion.diffusion.random import Draws, per_example_noise
from ray_diffusion.errors import UsageError
from ray_diffusion.models import similarity
from ray_diffusion.models.pixels import contact_sheet, decode, encode
from ray_diffusion.models.reconstructor import (
    Perceptual,
    Reconstructor,
    Weights,
    perceptual_of,
    reconstruction_loss,
)
from ray_diffusion.models.reconstructor import Reconstruction as Reconstructed
from ray_diffusion.storage import Directory, absolute
from ray_diffusion.training.collective import sum_over_workers
from ray_diffusion.training.task import Found
from ray_diffusion.training.validation import MOST_PROFILED, shares

IMAGE_MEASURES = {
    "val/score": similarity.mse,
    "val/psnr": similarity.psnr,
    "val/ssim": similarity.ssim,
}
PREVIEW_COLUMNS = 8
PREVIEW_IMAGES = 32


class Reconstruction:
    """The task of autoencoders; see ``Task``.

    Args:
        config: The run's resolved configuration.
        device: Where it trains.
        val: The validation split, of images.
    """

    def __init__(self, config: Config, device: torch.device, val: Dataset) -> None:
        self.config, self.device, self._val = config, device, val
        own = config.autoencoder
        self._weights = Weights(
            pyramid=own.pyramid_weight,
            ssim=own.ssim_weight,
            perceptual=own.perceptual_weight,
            kl=own.kl_weight,
            adversarial=own.adversarial_weight,
        )
        url = own.perceptual_url
        self._perceptual = None if url is None else perceptual_at(url)
        side = config.data.image_size // config.model.latent_factor
        self._shape = config.model.latent_channels, side, side

    def losses(self, network: nn.Module, batch: Batch, places: range, images_seen: int) -> Tensor:
        """See ``Task``."""
        own, seed = self.config.autoencoder, self.config.run.seed
        draws = Draws("step", seed, images_seen, places=places, device=self.device)
        x0 = encode(batch.images.to(self.device, non_blocking=True))
        late = own.adversarial_weight > 0 and images_seen >= own.adversarial_from_images
        noise = draws.normal(*self._shape)
        assert isinstance(network, Reconstructor)
        return reconstruction_loss(network, x0, noise, self._weights, late, self._perceptual)

    @torch.no_grad()
    def validate(self, average: nn.Module) -> Found:
        """See ``Task``.

        Args:
            average: A network that each worker may call on its own.

        Returns:
            ``val/score``, the mean squared error of reconstructions in the range [-1, 1];
            ``val/psnr`` in dB and ``val/ssim``; ``val/kl``, nats per dimension of the latents;
            and of each channel of the latents ``latent/mean_0``, ``latent/std_0``, ``latent/kl_0``.
        """
        width = len(IMAGE_MEASURES) + 3 * self.config.model.latent_channels
        total = torch.zeros(1 + width, dtype=torch.float64, device=self.device)
        for batch, positions in shares(self._val, self._val.spread(MOST_PROFILED)):
            measured = _measures(*self._reconstructed(average, batch, positions))
            weights = batch.weights.to(self.device).double()
            total += torch.cat([weights.sum()[None], weights @ measured])
        sum_over_workers([total])
        return Found(_named(total[1:] / total[0]), [])

    @torch.no_grad()
    def previews(self, networks: Mapping[str, nn.Module], found: Found) -> dict[str, Tensor]:
        """Rows of held-out images, and below each what has become of them; see ``Task``."""
        positions = self._val.spread(PREVIEW_IMAGES)
        batch, sheets = self._val.at(positions), {}
        for name, network in networks.items():
            _, now = self._reconstructed(network, batch, positions)
            became = decode(now.x0_hat).cpu()
            sides = (torch.split(images, PREVIEW_COLUMNS) for images in (batch.images, became))
            pairs = zip(*sides, strict=True)
            rows = torch.cat([image for pair in pairs for image in pair])
            sheets[name] = contact_sheet(rows, PREVIEW_COLUMNS)
        return sheets

    def _reconstructed(
        self, network: nn.Module, batch: Batch, positions: list[int]
    ) -> tuple[Tensor, Reconstructed]:
        """Images, and what has become of them: with the same draws from their latents each time."""
        noise = per_example_noise("validation latents", 0, positions, self._shape, self.device)
        x0 = encode(batch.images.to(self.device))
        return x0, network(x0, noise)


def perceptual_at(url: str) -> Perceptual:
    """The distance that ``autoencoder.perceptual_url`` names.

    Args:
        url: The file, in any storage.

    Returns:
        See ``models.reconstructor.perceptual_of``.

    Raises:
        UsageError: If there is no such file, or it is of another kind.
        StorageError: If it cannot be read.
    """
    place, _, name = absolute(url).rpartition("/")
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, name)
        if not Directory(place).get(name, file):
            raise UsageError(f"autoencoder.perceptual_url: there is no file {url}")
        return perceptual_of(file, url)


def _measures(x0: Tensor, found: Reconstructed) -> Tensor:
    """What is averaged over examples, shape ``(B, 3 + 3 C)``, float64."""
    means, logvars = found.posterior
    assert logvars is not None
    kl = similarity.kl_to_standard_normal(means, logvars).mean((2, 3))
    mean, square = means.mean((2, 3)), (means.square() + logvars.exp()).mean((2, 3))
    # What is beyond white and black is cut off before anyone sees it.
    of_images = [measure(found.x0_hat.clamp(-1, 1), x0) for measure in IMAGE_MEASURES.values()]
    return torch.cat([torch.stack(of_images, 1), mean, square, kl], 1).double()


def _named(means: Tensor) -> dict[str, float]:
    of_images, of_latents = means[: len(IMAGE_MEASURES)], means[len(IMAGE_MEASURES) :]
    mean, square, kl = of_latents.chunk(3)
    deviation = (square - mean.square()).clamp(min=0).sqrt()
    named = dict(zip(IMAGE_MEASURES, of_images.tolist(), strict=True))
    named["val/kl"] = float(kl.mean())
    for name, values in {"mean": mean, "std": deviation, "kl": kl}.items():
        named |= {f"latent/{name}_{i}": value for i, value in enumerate(values.tolist())}
    return named
