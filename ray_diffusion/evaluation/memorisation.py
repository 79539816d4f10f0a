"""Whether drawn images are copies of training images."""

import numpy as np

from ray_diffusion.evaluation.distances import Array

# Low enough that a new image is seldom as near to a training image; high enough that a few
# hundred held-out images settle where it lies (of 359, 18 are below it; at 1 % it would be 3).
QUANTILE = 0.05


def threshold(held_out: Array) -> float:
    """The distance at which an image counts as memorised.

    Args:
        held_out: Distance of each held-out image to its nearest training image, shape ``(N,)``.

    Returns:
        The 5 % quantile: one in twenty new images is as near by chance.
    """
    return float(np.quantile(held_out, QUANTILE))


def memorised_share(distances: Array, limit: float) -> float:
    """The share of images that are nearer to the training images than new images are.

    After the three-sample test for data-copying of Meehan et al. 2020 (arXiv:2004.05675), which
    also compares distances to the training set with those of held-out images. A share well above
    the floor is a reason to look at the pairs: smooth images are near to everything, so a model
    that blurs raises it too (Stein et al. 2023, arXiv:2306.04675).

    Args:
        distances: Distance of each image to its nearest training image, shape ``(N,)``.
        limit: The ``threshold``.

    Returns:
        The share, 0 to 1. Distances equal to the limit count: where held-out images themselves
        are copies of training images, the limit is 0.
    """
    return float((distances <= limit).mean())
