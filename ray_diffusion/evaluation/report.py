"""Drawn images against real ones, in figures."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ray_diffusion.data.reader import Dataset
from ray_diffusion.errors import UsageError
from ray_diffusion.evaluation.classifier import FEATURES, VERSION, classifier_of
from ray_diffusion.evaluation.frechet import frechet_distance

LEAST_IMAGES = 2 * FEATURES  # fewer make the covariance of the features singular


@dataclass(frozen=True)
class Figure:
    """One figure and the floor that real images reach.

    Attributes:
        value: Of the drawn images.
        floor: Of the validation split, measured the same way at the same count.
        count: Images that each was measured on.
        meaning: What it says, and which way is better.
    """

    value: float
    floor: float
    count: int
    meaning: str


@dataclass(frozen=True)
class Report:
    """All figures of one set of drawn images.

    Attributes:
        figures: By metric name.
        per_class: Accuracy of each class, by class name.
        dataset_fingerprint: What the figures are relative to.
        features: Which features were used.
    """

    figures: dict[str, Figure]
    per_class: dict[str, float]
    dataset_fingerprint: str
    features: str

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        return asdict(self)

    def table(self) -> str:
        """The report for a person."""
        head = f"{'':<22} {'drawn':>8} {'real':>8} {'images':>7}"
        rows = [
            f"{name:<22} {f.value:>8.3f} {f.floor:>8.3f} {f.count:>7}  {f.meaning}"
            for name, f in self.figures.items()
        ]
        classes = "  ".join(f"{name} {share:.2f}" for name, share in self.per_class.items())
        return "\n".join([head, *rows, f"accuracy by class: {classes}"])


def evaluate(images: Tensor, labels: Tensor, train: Dataset, val: Dataset) -> Report:
    """Measure drawn images.

    Args:
        images: The drawn images, uint8, shape ``(N, C, H, W)``.
        labels: The classes that were asked for, shape ``(N,)``.
        train: The train split: trains the classifier, and is what the drawn images should be like.
        val: The val split: real images that the classifier has not seen, for the floors.

    Returns:
        The report.

    Raises:
        UsageError: If there are too few images to fit a covariance to.
    """
    count = min(len(images), len(val))
    if count < LEAST_IMAGES:
        raise UsageError(
            f"num_images: at least {LEAST_IMAGES} drawn and validation images are needed, got "
            f"{len(images)} and {len(val)}"
        )
    judge = classifier_of(train)
    real = train.read(0, len(train))
    held_out = val.read(0, len(val))
    reference, _ = judge.describe(real.images)
    floor_features, floor_classes = judge.describe(held_out.images)
    features, classes = judge.describe(images)
    hits, floor_hits = classes == labels, floor_classes == held_out.labels

    # Standardised, so that no feature counts more for its scale alone.
    center, scale = reference.mean(0), reference.std(0).clamp(min=1e-6)

    def distance(described: Tensor) -> float:
        a, b = ((part - center) / scale for part in (described[:count], reference))
        return frechet_distance(a.numpy(), b.numpy())

    figures = {
        "sample/class_accuracy": Figure(
            _mean(hits), _mean(floor_hits), len(images), "drawn as the class asked for; up"
        ),
        "sample/fd": Figure(
            distance(features),
            distance(floor_features),
            count,
            "Frechet distance to the training images; down",
        ),
    }
    names = train.manifest.classes
    per_class = {
        name: _mean(hits[labels == i]) for i, name in enumerate(names) if bool((labels == i).any())
    }
    return Report(figures, per_class, train.manifest.fingerprint, f"classifier v{VERSION}")


def _mean(hits: Tensor) -> float:
    return float(hits.to(torch.float64).mean())
