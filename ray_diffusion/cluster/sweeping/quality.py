"""How good the images of a trial are, measured as ``evaluate`` does."""

import io
from contextlib import closing
from typing import Final

from PIL import Image
from torch import Tensor

from ray_diffusion import pipeline
from ray_diffusion.cluster import lineage, summary
from ray_diffusion.cluster.launch import recorded
from ray_diffusion.cluster.plan import Plan
from ray_diffusion.cluster.record import add_evaluation
from ray_diffusion.data.training_set import images_of, open_split
from ray_diffusion.errors import UsageError, warn
from ray_diffusion.evaluation.features import features_of
from ray_diffusion.evaluation.report import evaluate, require_enough
from ray_diffusion.models.pixels import contact_sheet
from ray_diffusion.pipeline import Pipeline
from ray_diffusion.storage import Directory

VALIDATED: Final = ("val/score", "val/vlb_bpd", "val/loss", "val/psnr", "val/ssim")

SHOWN, COLUMNS = 64, 8  # images that people see

MLFLOW_WAIT_S = 10.0
"""The next trial waits too, and what does not arrive is kept."""


def measure(run: Directory, num_images: int, seed: int) -> dict[str, float]:
    """Draw from a trial that has finished, measure the images and add the figures to its records.

    An autoencoder draws nothing: it has the figures of its validation.

    Args:
        run: The trial's directory.
        num_images: How many images are drawn, with averaged weights and the trial's own sampler.
        seed: Image ``i`` depends on ``(seed, i)``: trials with the same one draw from the same
            noise. Repeats of a trial take different ones, so that their spread is of drawing too.

    Returns:
        What the last validation found, and the figures of ``evaluate`` in its ``sample/`` names;
        without these, and with a warning, where they cannot be had, as of too few images.

    Raises:
        UsageError: If the trial has no checkpoint.
        StorageError: If its files cannot be read or written.
        DataError: If its dataset cannot be read.
    """
    facts = summary.read(run)
    assert facts is not None
    validated = {name: facts["metrics"][name] for name in VALIDATED if name in facts["metrics"]}
    trained, _ = lineage.recorded(run)
    if trained.model.kind == "autoencoder":
        return validated
    drawer = pipeline.load(run.url)
    try:
        figures, _ = _of_images(drawer, num_images, seed)
    except UsageError as error:
        warn(f"{run.url} has no sample/ figures: {error}")
        return validated
    add_evaluation(run, drawer.source, figures, {}, MLFLOW_WAIT_S)
    return validated | figures


def _of_images(drawer: Pipeline, num_images: int, seed: int) -> tuple[dict[str, float], Tensor]:
    """Figures of drawn images, and the images."""
    data, classes = images_of(drawer.config.data), drawer.config.model.num_classes
    with closing(open_split(data, "train")) as train, closing(open_split(data, "val")) as val:
        require_enough(num_images, len(val))  # before the work
        labels = drawer.labels(num_images)
        images = drawer.draw(labels, seed)
        report = evaluate(
            [images], labels if classes else None, train, val, features_of(None, train)
        )
    return {name: figure.value for name, figure in report.figures.items()}, images


def measure_drawing(plan: Plan, trained: Directory, num_images: int, seed: int) -> dict[str, float]:
    """Draw from a model as another run's sampler says, and make the figures that run's records.

    Args:
        plan: The run, of which nothing is trained.
        trained: The directory of the run that the model is of.
        num_images: How many images are drawn, with averaged weights.
        seed: Image ``i`` depends on ``(seed, i)``.

    Returns:
        The figures of ``evaluate`` in its ``sample/`` names.

    Raises:
        UsageError: If there is no checkpoint, or there are too few images.
    """
    drawer = pipeline.load(trained.url, sampler=plan.config.sampler.model_dump())
    figures, images = _of_images(drawer, num_images, seed)
    total, png = plan.config.training.total_images, io.BytesIO()
    Image.fromarray(contact_sheet(images[:SHOWN], COLUMNS).numpy()).save(png, "png")
    told = summary.Summary(
        "finished",
        plan.run.url,
        images_seen=total,
        metrics=figures,
        checkpoint=drawer.source,
        tracking_uri=plan.identity.shown_uri,
    )
    with recorded(plan) as (_, tracker, files, run_id):
        tracker.log(total, figures)
        files.write(f"samples/{total:012d}.png", png.getvalue())
        told.shipped = tracker.finish("FINISHED", MLFLOW_WAIT_S)
        told.mlflow_run_id = tracker.run_id or run_id
    told.write(plan.run)
    return figures
