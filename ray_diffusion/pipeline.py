"""Checkpoint -> images: the one thing that sampling, evaluation and serving share."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ray_diffusion import config as configs
from ray_diffusion.config import Config
from ray_diffusion.diffusion.editing import Sampler, inpaint, interpolate, restore, sdedit
from ray_diffusion.errors import StorageError, UsageError, warn
from ray_diffusion.models.build import build
from ray_diffusion.models.draw import draw, image_shape
from ray_diffusion.storage import Directory, options
from ray_diffusion.training import checkpoint

WEIGHTS = {"ema": "ema.safetensors", "raw": "model.safetensors"}
BATCH = 256  # images drawn at once


@dataclass(frozen=True)
class Pipeline:
    """A trained model that draws images.

    Attributes:
        config: The run's configuration; its ``sampler`` section says how images are drawn.
        network: The network.
        source: The checkpoint or model directory it came from.
        profile: Its error at ``profile.PROFILE_LEVELS`` at the last validation, if there was one.
    """

    config: Config
    network: nn.Module
    source: str
    profile: Tensor | None = None

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
            x0: The images, as ``models.pixels.encode`` makes them, shape ``(N, C, H, W)``.
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
            x0: The images, as ``models.pixels.encode`` makes them, shape ``(N, C, H, W)``.
            keep: Which pixels stay, bool, shape ``(N, 1, H, W)``.
            resamplings: How often each step is made, at least 1.
        """
        return self._draw(
            labels,
            seed,
            lambda rows, sampler: inpaint(sampler, x0[rows], keep[rows], resamplings),
        )

    def restore(self, labels: Tensor, seed: int, noisy: Tensor, noise_sigma: float) -> Tensor:
        """Take known noise off images; see ``editing.restore``.

        Args:
            labels: Classes, shape ``(N,)``.
            seed: As of ``draw``.
            noisy: The images, as ``models.pixels.encode`` makes them, shape ``(N, C, H, W)``; they
                may go beyond [-1, 1], but need not: little is lost where noise was clipped.
            noise_sigma: Standard deviation of the noise, above 0; from black to white is 2.
        """
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
        share, shape = torch.linspace(0, 1, len(labels)), image_shape(self.config)
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
                    labels[rows],
                    seed,
                    indices[rows],
                    self.profile,
                    edit_rows,
                )
            )
        return torch.cat(parts)


def load(
    model: str,
    weights: str = "ema",
    sampler: dict[str, object] | None = None,
    name: str | None = None,
) -> Pipeline:
    """Load a trained model.

    Args:
        model: A run's directory, a checkpoint's, or an exported model's; a path or URL.
        weights: ``"ema"`` or ``"raw"``.
        sampler: Changes to the ``sampler`` section; None values are ignored.
        name: Its source, where that is not the directory; None if it is.

    Returns:
        The pipeline, on the GPU if there is one.

    Raises:
        UsageError: If there is no model, or not with those weights.
        StorageError: If it is damaged.
        ConfigError: If the changed sampler contradicts the model.
    """
    directory = Directory(model)
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch)
        found = fetch(directory, local)
        source = name or found
        file = local / WEIGHTS[weights]
        if not file.exists():
            raise UsageError(f"{source} has no {weights} weights ({WEIGHTS[weights]})")
        config = configs.from_yaml((local / "config.yaml").read_text(), f"{source}/config.yaml")
        changes = {f"sampler.{k}": v for k, v in (sampler or {}).items() if v is not None}
        config = configs.override(config, changes)
        options.use(config.run.storage_options)  # the dataset is where the run's was
        network = build(config)
        network.load_state_dict(load_file(file))
        profile = _profile(local)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Pipeline(config, network.eval().requires_grad_(False).to(device), source, profile)


def _profile(model: Path) -> Tensor | None:
    """The profile in a checkpoint's state, or beside an exported model's weights."""
    state, alone = model / "state.json", model / "profile.json"
    if state.exists():
        found = json.loads(state.read_text()).get("profile")
    else:
        found = json.loads(alone.read_text()) if alone.exists() else None
    return torch.tensor(found, dtype=torch.float64) if found else None


def fetch(directory: Directory, into: Path) -> str:
    """Bring a model to this machine; where it came from."""
    if checkpoint.names(directory):
        name = checkpoint.fetch_newest(directory, into, warn)
        if name is None:
            raise StorageError(f"{directory.url} has no whole checkpoint")
        return f"{directory.url}/{name}"
    if not {"config.yaml", "ema.safetensors"} <= set(directory.names()):
        raise UsageError(
            f"{directory.url} is no model: it is neither a run with a checkpoint, "
            "nor a checkpoint, nor an exported model"
        )
    problem = directory.fetch("", into)
    if problem is not None:
        raise StorageError(f"{directory.url} {problem}")
    return directory.url
