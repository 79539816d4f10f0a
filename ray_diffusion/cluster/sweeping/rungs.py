"""Which trials of a sweep go on: each is held against the others at the same images seen.

A rule is told of each figure in the order in which trials report, and answers at once; told the
same again, as a journal does, it answers the same.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import Protocol

from ray_diffusion.config.sweep import EarlyTerminate

LATEST = 0.9
"""Share of a trial's images from which on it is not worth stopping."""


class Rule(Protocol):
    """Decides which trials go on."""

    @property
    def rungs(self) -> Sequence[int]:
        """Images seen at which trials are judged once each, if that is how it is done."""

    def goes_on(self, trial: str, images_seen: int, badness: float) -> bool:
        """Whether a trial goes on.

        Args:
            trial: Which.
            images_seen: How far it is.
            badness: Its figure there, the smaller the better; NaN is worse than all others.
        """


class Always:
    """Every trial is trained to its end."""

    rungs: Sequence[int] = ()

    def goes_on(self, trial: str, images_seen: int, badness: float) -> bool:
        """True."""
        return True


class Halving:
    """Asynchronous successive halving, in the variant that stops and never pauses.

    At each rung a trial goes on if it is among the best ``1 / eta`` of those that have come so far
    (Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning", arXiv:1810.05934). The
    first at a rung always do.

    Args:
        total_images: Of a trial that is not stopped.
        grace: Share of them that each trial gets, in (0, 1].
        eta: At least 2; rungs are apart by this factor. There is none in the last tenth, where
            stopping saves next to nothing.
    """

    def __init__(self, total_images: int, grace: float, eta: int) -> None:
        self._eta = eta
        first = max(1, math.ceil(grace * total_images))
        count = int(math.log(total_images / first, eta)) + 1
        self.rungs = [
            first * eta**k for k in range(count) if first * eta**k < LATEST * total_images
        ]
        self._came: dict[int, dict[str, float]] = {rung: {} for rung in self.rungs}

    def goes_on(self, trial: str, images_seen: int, badness: float) -> bool:
        """See ``Rule``; a trial is judged once at each rung, when it first comes past it."""
        badness = math.inf if math.isnan(badness) else badness
        verdict = True
        for rung in self.rungs:
            came = self._came[rung]
            if images_seen >= rung and trial not in came:
                came[trial] = badness
                better = sum(other < badness for other in came.values())
                verdict = verdict and better < max(1, math.ceil(len(came) / self._eta))
        return verdict


class Median:
    """A trial goes on while its best is no worse than the median of the others' means so far.

    Golovin et al. 2017, "Google Vizier: A Service for Black-Box Optimization".

    Args:
        total_images: Of a trial that is not stopped.
        grace: Share of them that each trial gets, in (0, 1].
    """

    rungs: Sequence[int] = ()

    def __init__(self, total_images: int, grace: float) -> None:
        self._grace_images = grace * total_images
        self._curves: dict[str, dict[int, float]] = {}

    def goes_on(self, trial: str, images_seen: int, badness: float) -> bool:
        """See ``Rule``."""
        badness = math.inf if math.isnan(badness) else badness
        own = self._curves.setdefault(trial, {})
        own.setdefault(images_seen, badness)
        means = [
            fmean(value for seen, value in curve.items() if seen <= images_seen)
            for other, curve in self._curves.items()
            if other != trial and min(curve) <= images_seen <= max(curve)
        ]
        if images_seen < self._grace_images or not means:
            return True
        return min(value for seen, value in own.items() if seen <= images_seen) <= median(means)


RULES: Mapping[str, Callable[[EarlyTerminate, int], Rule]] = {
    "asha": lambda said, total: Halving(total, said.grace, said.eta),
    "median": lambda said, total: Median(total, said.grace),
    "none": lambda said, total: Always(),
}
"""By the name in a sweep's file; of what it says there, and the images of a whole trial."""
