"""Checkpoint -> images: the one thing that sampling, evaluation and serving share."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ray_diffusion import config as configs
from ray_diffusion.config import Config
from ray_diffusion.errors import StorageError, UsageError, warn
from ray_diffusion.models.build import build
from ray_diffusion.models.draw import draw
from ray_diffusion.storage import Directory
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
    """

    config: Config
    network: nn.Module
    source: str

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

    def draw(self, labels: Tensor, seed: int) -> Tensor:
        """Draw one image per label.

        Args:
            labels: Classes, shape ``(N,)``.
            seed: Image ``i`` depends on ``(seed, i)``, its label and the sampler.

        Returns:
            uint8, shape ``(N, C, H, W)``, on the CPU.
        """
        parts = []
        for start in range(0, len(labels), BATCH):
            part = labels[start : start + BATCH]
            indices = list(range(start, start + len(part)))
            parts.append(draw(self.network, self.config, part, seed, indices))
        return torch.cat(parts)


def load(model: str, weights: str = "ema", sampler: dict[str, object] | None = None) -> Pipeline:
    """Load a trained model.

    Args:
        model: A run's directory, a checkpoint's, or an exported model's; a path or URL.
        weights: ``"ema"`` or ``"raw"``.
        sampler: Changes to the ``sampler`` section; None values are ignored.

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
        source = _fetch(directory, local)
        file = local / WEIGHTS[weights]
        if not file.exists():
            raise UsageError(f"{source} has no {weights} weights ({WEIGHTS[weights]})")
        config = configs.from_yaml((local / "config.yaml").read_text(), f"{source}/config.yaml")
        changes = {f"sampler.{k}": v for k, v in (sampler or {}).items() if v is not None}
        config = configs.override(config, changes)
        network = build(config)
        network.load_state_dict(load_file(file))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Pipeline(config, network.eval().requires_grad_(False).to(device), source)


def _fetch(directory: Directory, into: Path) -> str:
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
