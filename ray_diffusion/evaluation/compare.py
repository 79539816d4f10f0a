"""Models in the order of a figure, where their evaluations may be compared at all."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ray_diffusion.errors import UsageError

OF_IMAGES = ("dataset", "features")  # what figures of drawn images are relative to
FINGERPRINTS = (*OF_IMAGES, "codec", "score")
DRAWING = ("seeds", "sampler")  # what decides, beside the model, which images are drawn


def rank(evaluations: Sequence[Mapping[str, Any]], metric: str) -> list[Mapping[str, Any]]:
    """Sort evaluations by one of their figures.

    Args:
        evaluations: As ``evaluation.json`` holds them.
        metric: Name of the figure, such as ``sample/fd``.

    Returns:
        The same evaluations, the best first; a figure that is no number comes last.

    Raises:
        UsageError: If one lacks the figure; or if they were measured with different datasets or
            features, or the figure on different numbers of images, so that the order would say
            nothing. Figures of drawn images are of pixels, whatever the model works on; all others
            are errors of what it works on, so codec and score must be the same, too.
    """
    for evaluation in evaluations:
        if metric not in evaluation["figures"]:
            raise UsageError(
                f"{evaluation['model']} cannot be ranked by {metric}: its evaluation has "
                + ", ".join(evaluation["figures"])
            )
    for name in OF_IMAGES if _of_drawn_images(metric) else FINGERPRINTS:
        _refuse_different(
            evaluations, metric, name, [e[f"{name}_fingerprint"] for e in evaluations]
        )
    figures = [evaluation["figures"][metric] for evaluation in evaluations]
    _refuse_different(evaluations, metric, "number of images", [f["count"] for f in figures])

    def badness(evaluation: Mapping[str, Any]) -> float:
        figure = evaluation["figures"][metric]
        value: float = figure["value"] if figure["better"] == "lower" else -figure["value"]
        return math.inf if math.isnan(value) else value

    return sorted(evaluations, key=badness)


def beats(challenger: Mapping[str, Any], champion: Mapping[str, Any] | None, metric: str) -> bool:
    """Whether a model is strictly better than another one by a figure measured in the same way.

    Args:
        challenger: As ``evaluation.json`` holds it.
        champion: Likewise; None if there is no other model.
        metric: Name of the figure, such as ``sample/fd``.

    Returns:
        Whether it is; never for a figure that is no number, always for any other without a rival.

    Raises:
        UsageError: As of ``rank``; or if a figure of drawn images is of images that were drawn
            with other seeds or another sampler.
    """
    models = [challenger] if champion is None else [champion, challenger]
    if _of_drawn_images(metric):
        for what in DRAWING:
            _refuse_different(models, metric, what, [model[what] for model in models])
    best = rank(models, metric)[0]  # of two that are as good, the champion
    return best is challenger and not math.isnan(challenger["figures"][metric]["value"])


def _of_drawn_images(metric: str) -> bool:
    return metric.startswith("sample/")


def _refuse_different(
    evaluations: Sequence[Mapping[str, Any]], metric: str, what: str, found: Sequence[object]
) -> None:
    for evaluation, other in zip(evaluations, found, strict=True):
        if other != found[0]:
            raise UsageError(
                f"{metric} does not compare: {evaluations[0]['model']} was evaluated with {what} "
                f"{found[0]}, {evaluation['model']} with {other}; evaluate them in the same way"
            )
