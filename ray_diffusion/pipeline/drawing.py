"""A trained model that draws."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ray_diffusion.config import Config
from ray_diffusion.diffusion.editing import Sampler, inpaint, interpolate, restore, sdedit
from ray_diffusion.errors import UsageError
from ray_diffusion.models.codecs.space import Space
from ray_diffusion.models.draw import draw, x0_shape

BATCH = 256  # images drawn at once


@dataclass(frozen=True)
class Pipeline:
    """A trained model that draws images.

    Attributes:
        config: The run's configuration; its ``sampler`` section says how images are drawn.
        network: The network.
        space: What the network works on.
        source: The checkpoint or model directory it came from.
        profile: Its error at ``profile.PROFILE_LEVELS`` at the last validation, if there was one.
    """

    config: Config
    network: nn.Module
    space: Space
    source: str
    profile: Tensor | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of its images."""
        return self.space.image_shape(x0_shape(self.config))

    def labels(self, num_images: int, class_label: int | None = None) -> Tensor:
        """Classes in turn, or all of one class.

        Args:
            num_images: How many.
            class_label: The class; None for all in turn.

        Returns:
            Labels, int64, shape ``(num_images,)``.

        Raises:
            UsageError: If the model knows no such class.
        """
        classes = self.config.model.num_classes or 0
        if class_label is None:
            return torch.arange(num_images) % max(1, classes)
        if not 0 <= class_label < classes:
            raise UsageError(f"class_label: the model has {classes} classes, got {class_label}")
        return torch.full((num_images,), class_label)

    def no_labels(self, num_images: int) -> Tensor:
        """Images of no class in particular.

        Args:
            num_images: How many.

        Returns:
            Labels, int64, shape ``(num_images,)``.

        Raises:
            UsageError: If the model has never seen an image without its class.
        """
        model = self.config.model
        if model.num_classes and not model.class_dropout_prob:
            raise UsageError(
                "class_label: the model was told the class of every image "
                "(model.class_dropout_prob=0); give one"
            )
        return torch.full((num_images,), model.num_classes or 0)

    def draw(self, labels: Tensor, seed: int) -> Tensor:
        """Draw one image per label.

        Args:
            labels: Classes, shape ``(N,)``.
            seed: Image ``i`` depends on ``(seed, i)``, its label and the sampler.

        Returns:
            uint8, shape ``(N, C, H, W)``, on the CPU; as of the other drawings below.
        """
        return self._draw(labels, seed)

    def sdedit(
        self, labels: Tensor, seed: int, x0: Tensor, strength: float, one_noise: bool = False
    ) -> Tensor:
        """Draw variations of images; see ``editing.sdedit``.

        Args:
            labels: Classes, shape ``(N,)``.
            seed: As of ``draw``.
            x0: The images, as ``space.encode`` makes them, shape ``(N, C, H, W)``.
            strength: How far to go from them, in (0, 1].
            one_noise: Whether all get the noise of image 0, so that they differ by ``x0`` alone.
        """
        return self._draw(
            labels, seed, lambda rows, sampler: sdedit(sampler, x0[rows], strength), one_noise
        )

    def inpaint(
        self, labels: Tensor, seed: int, x0: Tensor, keep: Tensor, resamplings: int
    ) -> Tensor:
        """Fill holes in images; see ``editing.inpaint``.

        Args:
            labels: Classes, shape ``(N,)``.
            seed: As of ``draw``.
            x0: The images, as ``space.encode`` makes them, shape ``(N, C, H, W)``.
            keep: Which pixels stay, bool, shape ``(N, 1, H, W)``.
            resamplings: How often each step is made, at least 1.
        """
        return self._draw(
            labels,
            seed,
            lambda rows, sampler: inpaint(
                sampler, x0[rows], self.space.keep(keep[rows]), resamplings
            ),
        )

    def restore(self, labels: Tensor, seed: int, noisy: Tensor, noise_sigma: float) -> Tensor:
        """Take known noise off images; see ``editing.restore``.

        Args:
            labels: Classes, shape ``(N,)``.
            seed: As of ``draw``.
            noisy: The images, as ``space.encode`` makes them, shape ``(N, C, H, W)``; they
                may go beyond [-1, 1], but need not: little is lost where noise was clipped.
            noise_sigma: Standard deviation of the noise, above 0; from black to white is 2.

        Raises:
            UsageError: If the model draws latents, which have no noise of pixels.
        """
        if self.config.data.codec is not None:
            raise UsageError(
                "noise_sigma: the model draws latents, and noise of pixels is none of theirs; "
                "init_image with strength draws variations"
            )
        return self._draw(
            labels, seed, lambda rows, sampler: restore(sampler, noisy[rows], noise_sigma)
        )

    def interpolate(self, labels: Tensor, seed: int, other_seed: int) -> Tensor:
        """Draw a path, in even steps, from image 0 of a seed to image 0 of another.

        Args:
            labels: Classes, shape ``(N,)``.
            seed: Where the path starts.
            other_seed: Where it ends; see ``editing.interpolate``.
        """
        share, shape = torch.linspace(0, 1, len(labels)), x0_shape(self.config)
        return self._draw(
            labels,
            seed,
            lambda rows, sampler: interpolate(sampler, shape, other_seed, share[rows]),
            one_noise=True,
        )

    def _draw(
        self,
        labels: Tensor,
        seed: int,
        edit: Callable[[slice, Sampler], Tensor] | None = None,
        one_noise: bool = False,
    ) -> Tensor:
        """Draw in batches; an edit is told which rows it is about."""
        indices, parts = [0] * len(labels) if one_noise else list(range(len(labels))), []
        for start in range(0, len(labels), BATCH):
            rows = slice(start, start + BATCH)
            edit_rows = partial(edit, rows) if edit else None
            parts.append(
                draw(
                    self.network,
                    self.config,
                    self.space,
                    labels[rows],
                    seed,
                    indices[rows],
                    self.profile,
                    edit_rows,
                )
            )
        return torch.cat(parts)
