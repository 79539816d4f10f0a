"""What is measured of a set of images: the same for drawn ones and for the validation split."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ray_diffusion.data.reader import Dataset
from ray_diffusion.evaluation.classifier import Classifier
from ray_diffusion.evaluation.distances import Array, nearest
from ray_diffusion.evaluation.features import Features
from ray_diffusion.evaluation.frechet import frechet_distance
from ray_diffusion.evaluation.kernel import kernel_distance
from ray_diffusion.evaluation.manifold import inside, reach
from ray_diffusion.evaluation.memorisation import memorised_share
from ray_diffusion.evaluation.reference import REFERENCE_IMAGES, in_batches
from ray_diffusion.evaluation.sliced import directions, project, sliced_wasserstein

Pixels = NDArray[np.uint8]  # (N, D)


class Meaning(NamedTuple):
    """What a figure says.

    Attributes:
        text: In a few words.
        better: Which way.
        depends_on_count: Whether it compares at equal numbers of images only.
    """

    text: str
    better: Literal["lower", "higher"]
    depends_on_count: bool


MEANINGS = {
    "sample/fd": Meaning("Frechet distance to the training images", "lower", True),
    "sample/kid": Meaning("kernel distance to the training images", "lower", True),
    "sample/precision": Meaning("share that looks like training images", "higher", False),
    "sample/recall": Meaning("share of the training images that is covered", "higher", True),
    "sample/class_accuracy": Meaning("share drawn as the class asked for", "higher", False),
    "sample/swd": Meaning("sliced Wasserstein distance of the pixels", "lower", True),
    "sample/memorised": Meaning(
        "share that is suspiciously near to a training image", "lower", False
    ),
}


@dataclass(frozen=True)
class Reference:
    """The training images, as far as distances to them are concerned.

    Attributes:
        describe: How images are described.
        features: Of the training images, shape ``(N, D)``.
        reach: Around each of them, shape ``(N,)``.
        onto: Directions in the space of pixels, shape ``(C H W, P)``.
        projections: Of the training images along them, shape ``(N, P)``.
    """

    describe: Features
    features: Array
    reach: Array
    onto: Array
    projections: Array


@dataclass(frozen=True)
class Described:
    """A set of images, as far as the figures are concerned.

    Attributes:
        features: Shape ``(N, D)``.
        projections: Of the first 10,000, shape ``(N, P)``.
        inside: Whether each lies in the region of the training images, shape ``(N,)``.
        distances: To the nearest training image, grey levels, shape ``(N,)``.
        labels: The class that each is meant to be, shape ``(N,)``.
        hits: Whether it is that class, shape ``(N,)``; None without classes.
    """

    features: Array
    projections: Array
    inside: NDArray[np.bool_]
    distances: Array
    labels: NDArray[np.int64]
    hits: NDArray[np.bool_] | None


def _flat(images: Tensor) -> Pixels:
    return images.flatten(1).numpy()


def refer(train: Dataset, features: Features) -> Reference:
    """Describe the training images, the first 10,000 of them.

    Args:
        train: The train split.
        features: How images are described.

    Returns:
        The reference.
    """
    onto = directions(train.manifest.channels * train.manifest.image_size**2) / 127.5  # to [-1, 1]
    described, projections = [], []
    for batch in in_batches(train, REFERENCE_IMAGES):
        described.append(features.embed(batch.images))
        projections.append(project(_flat(batch.images), onto))
    found = np.concatenate(described)
    return Reference(features, found, reach(found), onto, np.concatenate(projections))


def describe(
    images: Tensor,
    labels: Tensor,
    judge: Classifier | None,
    distances: Array,
    reference: Reference,
) -> Described:
    """Describe a set of images.

    Args:
        images: uint8, shape ``(N, C, H, W)``.
        labels: The class that each is meant to be, shape ``(N,)``; of no matter without a judge.
        judge: Says which class it is; None without classes.
        distances: To the nearest training image, shape ``(N,)``.
        reference: The training images.

    Returns:
        The description.
    """
    features = reference.describe.embed(images)
    return Described(
        features=features,
        projections=project(_flat(images[:REFERENCE_IMAGES]), reference.onto),
        inside=inside(features, reference.features, reference.reach),
        distances=distances,
        labels=labels.numpy(),
        hits=None if judge is None else (judge.classify(images) == labels).numpy(),
    )


def distances_to_training(
    sets: Sequence[Tensor], train: Dataset
) -> list[tuple[Array, NDArray[np.int64]]]:
    """How near each image is to a training image, of all of them.

    The distance is one of pixels. Those of classifier features would call two different images of
    one class near, as the classifier is trained to; a copy is a copy of pixels.

    Args:
        sets: Sets of images, uint8, shape ``(N, C, H, W)``.
        train: The train split, read once.

    Returns:
        For each set the root mean square difference to the nearest training image, grey levels of
        255, and its index in the split, both of shape ``(N,)``.
    """
    queries = [_flat(images) for images in sets]
    parts = (_flat(batch.images) for batch in in_batches(train))
    distances, indices = nearest(np.concatenate(queries), parts)
    ends = np.cumsum([len(part) for part in queries])[:-1]
    per_pixel = distances / np.sqrt(queries[0].shape[1])
    return list(zip(np.split(per_pixel, ends), np.split(indices, ends), strict=True))


def statistics(
    images: Described, reference: Reference, limit: float, count: int
) -> dict[str, float]:
    """Every figure of a set of images.

    Args:
        images: The set.
        reference: The training images.
        limit: Distance at which an image counts as memorised.
        count: How many images, from the first on, the figures that depend on it may use.

    Returns:
        By metric name, as in ``MEANINGS``; no class accuracy without classes.
    """
    some = images.features[:count]
    covered = inside(reference.features, some, reach(some))
    found = {
        "sample/fd": frechet_distance(some, reference.features),
        "sample/kid": kernel_distance(some, reference.features),
        "sample/precision": float(images.inside.mean()),
        "sample/recall": float(covered.mean()),
        "sample/swd": sliced_wasserstein(images.projections[:count], reference.projections),
        "sample/memorised": memorised_share(images.distances, limit),
    }
    if images.hits is not None:
        found["sample/class_accuracy"] = float(images.hits.mean())
    return {name: found[name] for name in MEANINGS if name in found}
