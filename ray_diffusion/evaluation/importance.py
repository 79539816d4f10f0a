"""Which of a sweep's parameters its figures hang on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import KFold

from ray_diffusion.evaluation.ranks import ranks

FEWEST = 8  # trials, or a forest finds what is not there
FOLDS = 4
TREES = 100

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Importance:
    """What a random forest makes of the trials.

    Attributes:
        told: Share of the trials' differences that it tells from the parameters of trials that it
            has not seen: 1 is all; 0 or less, nothing.
        shares: By parameter, the largest first: the share that hangs on it, alone or together with
            others, as far as the forest can tell; about 0 is none.
    """

    told: float
    shares: Mapping[str, float]


def importance(values: Mapping[str, Sequence[Any]], figures: Sequence[float]) -> Importance:
    """How much of the order of trials hangs on each parameter.

    Permutation importance (Breiman 2001, "Random Forests") in Jansen's form (1999, "Analysis of
    variance designs for model output"): half of the squared error that is added when a parameter's
    value is another trial's, over the variance. Each fourth of the trials is told from the others,
    each is given the values of all in turn, and places stand for figures: one trial that diverged
    would outweigh all others.

    Args:
        values: Of each parameter, one for each trial; a number or a name.
        figures: One for each trial, at least ``FEWEST``; the smallest is first, NaN last.

    Returns:
        The same for the same trials; of figures that are all the same, that nothing is told.
    """
    inputs = np.stack([_coded(column) for column in values.values()], axis=1)
    places = ranks(figures)
    if np.ptp(places) == 0:
        return Importance(0.0, {})
    wrong = np.zeros((len(places), 1 + len(values)))
    for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(inputs):
        forest = RandomForestRegressor(TREES, random_state=0).fit(inputs[train], places[train])
        for column, given in enumerate(_given(inputs, test)):
            said = forest.predict(given.reshape(-1, len(values))).reshape(len(test), -1)
            wrong[test, column] = np.square(said - places[test, None]).mean(1)
    own, *others = wrong.mean(0) / places.var()
    shares = {name: float(other - own) / 2 for name, other in zip(values, others, strict=True)}
    return Importance(1 - float(own), dict(sorted(shares.items(), key=lambda item: -item[1])))


def _given(inputs: Array, test: NDArray[np.int64]) -> Iterator[Array]:
    """What a forest is asked: the trials themselves, then with each column of all trials."""
    yield inputs[test, None, :]
    for column in range(inputs.shape[1]):
        changed = np.repeat(inputs[test, None, :], len(inputs), axis=1)
        changed[:, :, column] = inputs[:, column]
        yield changed


def _coded(column: Sequence[Any]) -> Array:
    """Numbers as they are, names as numbers in their order: a tree needs no more."""
    if all(isinstance(value, int | float) for value in column):
        return np.array(column, dtype=float)
    names = sorted({str(value) for value in column})
    return np.array([names.index(str(value)) for value in column], dtype=float)
