"""Measure a trained model: class accuracy and Frechet distance, each beside its floor."""

import json
import sys
from typing import TYPE_CHECKING

from pydantic import Field

from ray_diffusion import config, errors

if TYPE_CHECKING:
    from ray_diffusion.evaluation.report import Report
    from ray_diffusion.pipeline import Pipeline

FILE = "evaluation.json"


class EvaluateRequest(config.Values):
    """Which model is measured, on how many images."""

    model: str = Field(description="A run's, checkpoint's or exported model's directory or URL.")
    num_images: config.Int = Field(default=500, ge=1, description="How many images are drawn.")
    seed: config.Int = Field(default=0, ge=0, description="Seed of the drawn images.")
    dataset_url: str | None = Field(
        default=None, description="What is compared with; null: what the model was trained on."
    )


def main(argv: list[str]) -> None:
    """Draw images, measure them, print a table; for a run also write and log the figures.

    Args:
        argv: ``MODEL [key=value ...]``.
    """
    request = config.request(
        argv, EvaluateRequest, verb="evaluate", doc=__doc__, positional=["model"]
    )
    from ray_diffusion import pipeline
    from ray_diffusion.data.reader import Dataset
    from ray_diffusion.evaluation.report import evaluate

    drawer = pipeline.load(request.model)
    data = drawer.config.data
    url = request.dataset_url or data.dataset_url
    train, val = (
        Dataset(url, split, data.image_size, data.cache_bytes) for split in ("train", "val")
    )
    labels = drawer.labels(request.num_images)
    report = evaluate(drawer.draw(labels, request.seed), labels, train, val)
    print(f"{drawer.source}, {request.num_images} images, seed {request.seed}\n{report.table()}")
    _record(request, drawer, report)


def _record(request: EvaluateRequest, drawer: "Pipeline", report: "Report") -> None:
    """Keep the figures with the run, if it is a run that was measured."""
    from ray_diffusion.cluster import summary
    from ray_diffusion.cluster.lineage import identity, spool_directory
    from ray_diffusion.storage import Directory
    from ray_diffusion.tracking.tracker import Tracker

    run = Directory(request.model)
    facts = summary.read(run)
    if facts is None:
        return
    figures = {name: figure.value for name, figure in report.figures.items()}
    content = {"model": drawer.source, "num_images": request.num_images, "seed": request.seed}
    run.write(FILE, json.dumps(content | report.to_dict(), indent=1))
    facts["metrics"] |= figures
    run.write(summary.FILE, json.dumps(facts, indent=1))
    origin = identity(drawer.config, report.dataset_fingerprint)
    spools, run_id = spool_directory(drawer.config, origin), facts["mlflow_run_id"]
    with Tracker(spools, "evaluate", origin, run_id=run_id) as tracker:
        tracker.log(facts["images_seen"], figures)
    print(f"written to {run.url}/{FILE}" + ("" if tracker.finish() else "; not yet in MLflow"))


if __name__ == "__main__":
    sys.exit(errors.run(main))
