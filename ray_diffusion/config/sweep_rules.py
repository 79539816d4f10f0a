"""What the keys of a sweep's file, each fine by itself, say against one another."""

from collections.abc import Collection, Iterator, Mapping
from importlib.util import find_spec
from typing import Final, NamedTuple

from ray_diffusion.config.effort import Training
from ray_diffusion.config.schema import Config
from ray_diffusion.config.space import Space, count
from ray_diffusion.config.sweep_schema import MOST_TRIALS, Metric, Sweep

LOSSES: Final = ("val/loss", "train/loss")
"""What is minimised itself: it changes with what a trial calls an error, whatever is learned."""

DEFINES_LOSSES: Final = ("diffusion.", "autoencoder.")

AUTOENCODER: Final = "autoencoder"
OF_AUTOENCODERS: Final = ("val/score", "train/loss")
"""The figures that it has: it draws nothing, and knows no noise levels."""


class Contradiction(NamedTuple):
    """Keys that do not go together; the first that the file has takes the blame."""

    keys: tuple[str, ...]
    problem: str


def contradictions(sweep: Sweep, space: Space, base: Config) -> Iterator[Contradiction]:
    """What a sweep's file says against itself.

    Args:
        sweep: The file, but for its parameters.
        space: What varies.
        base: What its trials differ from.
    """
    yield from _of_metric(sweep.metric, space)
    yield from _of_kinds(sweep.metric, kinds(space, base))
    if why := _why_never_early(sweep, space, base.training):
        rule = sweep.early_terminate.type
        yield Contradiction(
            ("early_terminate.type", "early_terminate.grace", "metric.name"),
            f"{rule} never ends a trial: {why}; early_terminate: {{type: none}} trains each to "
            "its end",
        )
    yield from _of_method(sweep, space)
    given = sweep.resources
    if given.gpus_per_worker % 1 and given.num_workers > 1:
        yield Contradiction(
            ("resources.gpus_per_worker", "resources.num_workers"),
            f"only trials of one worker share a GPU, got {given.gpus_per_worker:g} for each of "
            f"{given.num_workers} workers",
        )


def too_large(sweep: Sweep, have: Mapping[str, float]) -> Iterator[Contradiction]:
    """What a trial needs that a cluster does not have; see ``Resources.too_large``."""
    for problem in sweep.resources.too_large(have):
        keys = ("num_workers", "cpus_per_worker", "gpus_per_worker")
        yield Contradiction(tuple(f"resources.{key}" for key in keys), problem)


def kinds(space: Space, base: Config) -> tuple[str, ...]:
    """``model.kind`` of all trials.

    Args:
        space: What varies.
        base: What trials differ from.
    """
    varied = space.get("model.kind")
    return (base.model.kind,) if varied is None else varied.samples


def _of_metric(metric: Metric, space: Space) -> Iterator[Contradiction]:
    errors = [key for key in space if key.startswith(DEFINES_LOSSES)]
    drawing = [key for key in space if key.startswith("sampler.")]
    if metric.name in LOSSES and errors:
        yield Contradiction(
            ("metric.name",),
            f"{metric.name} does not compare trials that differ in {errors[0]}, which changes "
            "what it measures, whatever is learned; val/score does",
        )
    if drawing and not metric.of_samples:
        yield Contradiction(
            ("metric.name",),
            f"{metric.name} draws no images, so it cannot choose {drawing[0]}; sample/fd can",
        )


def _of_kinds(metric: Metric, kinds: Collection[str]) -> Iterator[Contradiction]:
    others = [kind for kind in kinds if kind != AUTOENCODER]
    if len(others) == len(kinds):
        return
    if others:
        yield Contradiction(
            ("metric.name",),
            f"{metric.name} does not compare model.kind={AUTOENCODER} with {others[0]}: one gives "
            "images back, the other draws new ones; sweep each by itself",
        )
    elif metric.name not in OF_AUTOENCODERS:
        yield Contradiction(
            ("metric.name",),
            f"{metric.name} does not compare autoencoders, which "
            f"{'draw nothing' if metric.of_samples else 'know no noise levels'}; val/score, the "
            "error of what they give back, does",
        )


def _of_method(sweep: Sweep, space: Space) -> Iterator[Contradiction]:
    most = sweep.run_cap or MOST_TRIALS
    ranges = [key for key, parameter in space.items() if parameter.values is None]
    if sweep.method == "bayes" and find_spec("optuna") is None:
        problem = "bayes needs optuna: pip install 'ray-diffusion[bayes]'"
        yield Contradiction(("method",), problem)
    if sweep.method != "grid":
        if sweep.run_cap is None:
            problem = f"{sweep.method} needs run_cap, the number of trials"
            yield Contradiction(("method", "run_cap"), problem)
    elif ranges:
        problem = f"a grid needs values for {ranges[0]}, not a range"
        yield Contradiction(("method",), problem)
    elif count(space) > most:
        problem = f"the grid has {count(space):,} trials, more than {most:,}"
        yield Contradiction(("run_cap", "method"), problem)


def _why_never_early(sweep: Sweep, space: Space, training: Training) -> str | None:
    rule, total = sweep.early_terminate, training.total_images
    every = training.validate_every_images
    newest = (total - 1) // every * every  # the last one before the end
    if rule.type == "none":
        return None
    if sweep.metric.of_samples:
        return f"{sweep.metric.name} is measured when it is over"
    if "training.total_images" in space:
        return "trials that differ in training.total_images share no rungs"
    if newest < max(1, rule.grace * total):
        return (
            f"no validation comes between its grace and its end, with training."
            f"validate_every_images={every} of {total} images and grace {rule.grace:g}"
        )
    return None
