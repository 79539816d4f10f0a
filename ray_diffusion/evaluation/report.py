"""Drawn images against real ones: all figures of one model, each beside its floor."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ray_diffusion.data.reader import Dataset
from ray_diffusion.errors import UsageError
from ray_diffusion.evaluation.classifier import classifier_of
from ray_diffusion.evaluation.distances import Array
from ray_diffusion.evaluation.features import Features
from ray_diffusion.evaluation.figures import ClassFigures, Figure, Pair, Report
from ray_diffusion.evaluation.measure import (
    MEANINGS,
    Described,
    describe,
    distances_to_training,
    refer,
    statistics,
)
from ray_diffusion.evaluation.memorisation import threshold
from ray_diffusion.evaluation.reference import REFERENCE_IMAGES

# Of fewer a share is uncertain by 0.04 and more, and a covariance of 64 features says little.
LEAST_IMAGES = 128
MOST_PAIRS = 10


def require_enough(drawn: int, held_out: int) -> None:
    """Refuse to measure too few images.

    Args:
        drawn: How many are drawn.
        held_out: How many the validation split has.

    Raises:
        UsageError: If either is too few.
    """
    if min(drawn, held_out) < LEAST_IMAGES:
        raise UsageError(
            f"num_images: at least {LEAST_IMAGES} drawn and validation images are needed, got "
            f"{drawn} and {held_out}"
        )


def evaluate(
    draws: Sequence[Tensor],
    labels: Tensor | None,
    train: Dataset,
    val: Dataset,
    features: Features,
) -> Report:
    """Measure drawn images.

    Args:
        draws: The images of each seed, uint8, shape ``(N, C, H, W)``.
        labels: The class that each was asked for, shape ``(N,)``; None if none was. Without them,
            or without classes in the dataset, there are no figures of classes.
        train: The train split: what drawn images should be like.
        val: The val split: images that nothing was trained on, for the floors.
        features: How images are described.

    Returns:
        The report.

    Raises:
        UsageError: If there are too few images.
    """
    held_out = val.read(0, min(len(val), REFERENCE_IMAGES))
    drawn, count = len(draws[0]), min(len(draws[0]), len(held_out.images))
    require_enough(drawn, len(val))
    judge = None
    if labels is not None and len(train.manifest.classes) > 1:
        judge = classifier_of(train)
    asked = torch.zeros(drawn, dtype=torch.int64) if labels is None else labels
    reference = refer(train, features)
    sets = [(held_out.images, held_out.labels), *((images, asked) for images in draws)]
    near = distances_to_training([images for images, _ in sets], train)
    real, *found = (
        describe(images, wanted, judge, distances, reference)
        for (images, wanted), (distances, _) in zip(sets, near, strict=True)
    )
    limit = threshold(real.distances)
    floors = statistics(real, reference, limit, count)
    values = [statistics(images, reference, limit, count) for images in found]
    return Report(
        figures=_figures(values, floors, drawn, count),
        per_class=_per_class(train.manifest.classes, found, real),
        closest=_closest(*near[1]),
        memorised_below=limit,
        features=features.name,
        features_fingerprint=features.fingerprint,
        dataset_fingerprint=train.manifest.fingerprint,
    )


def _figures(
    values: Sequence[Mapping[str, float]], floors: Mapping[str, float], drawn: int, count: int
) -> dict[str, Figure]:
    figures = {}
    for name, floor in floors.items():
        meaning, found = MEANINGS[name], [value[name] for value in values]
        figures[name] = Figure(
            value=float(np.mean(found)),
            floor=floor,
            count=count if meaning.depends_on_count else drawn,
            meaning=meaning.text,
            better=meaning.better,
            spread=float(np.std(found, ddof=1)) if len(found) > 1 else None,
        )
    return figures


def _per_class(
    names: Sequence[str], drawn: Sequence[Described], real: Described
) -> dict[str, ClassFigures]:
    hits = [images.hits for images in drawn if images.hits is not None]
    if real.hits is None or not hits:
        return {}
    all_hits = np.concatenate(hits)
    labels = np.concatenate([images.labels for images in drawn])
    inside = np.concatenate([images.inside for images in drawn])
    found = {}
    for label, name in enumerate(names):
        mine, theirs = labels == label, real.labels == label
        if mine.any():
            found[name] = ClassFigures(
                count=int(mine.sum()),
                accuracy=float(all_hits[mine].mean()),
                accuracy_floor=float(real.hits[theirs].mean()) if theirs.any() else None,
                precision=float(inside[mine].mean()),
                precision_floor=float(real.inside[theirs].mean()) if theirs.any() else None,
            )
    return found


def _closest(distances: Array, indices: NDArray[np.int64]) -> list[Pair]:
    nearest_first = np.argsort(distances, kind="stable")[:MOST_PAIRS]
    return [Pair(int(i), int(indices[i]), float(distances[i])) for i in nearest_first]
