"""Measure a trained model: every figure beside the floor that real images reach."""

import dataclasses
import io
import json
import re
import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from ray_diffusion import config, errors
from ray_diffusion.config.values import Name

if TYPE_CHECKING:
    from torch import Tensor

    from ray_diffusion.data.reader import Dataset
    from ray_diffusion.evaluation.figures import Report
    from ray_diffusion.pipeline import Pipeline

FILE, PAGE = "evaluation.json", "evaluation.html"
SAMPLER_KEYS = ("solver", "num_inference_steps", "grid", "eta", "variance", "guidance_scale")


def _alias(name: str) -> str:
    if not re.fullmatch(r"(?!(latest|v\d+)$)[\w-]{1,255}", name, re.IGNORECASE):
        raise ValueError(
            "must be letters, digits, dashes or underscores, and neither latest nor v1, v2, ..."
        )
    return name


class EvaluateRequest(config.Values):
    """Which model is measured, and how."""

    model: str = Field(
        description="A run's, checkpoint's or exported model's directory or URL, or in MLflow "
        "mlflow:RUN_ID, models:/NAME@ALIAS or models:/NAME/VERSION."
    )
    num_images: config.Int = Field(default=500, ge=1, description="Images drawn with each seed.")
    seed: config.Int = Field(default=0, ge=0, description="Image i depends on (seed, i) alone.")
    seeds: config.Int = Field(
        default=1, ge=1, le=100, description="Draw with seed, seed + 1, ...; report mean and sd."
    )
    features: str | None = Field(
        default=None,
        description="classifier, random, or a TorchScript FILE.pt called with (B, C, H, W) in "
        "[-1, 1]; null: classifier where the dataset has classes, else random.",
    )
    dataset_url: str | None = Field(
        default=None, description="What is compared with; null: what the model was trained on."
    )
    out: str | None = Field(
        default=None,
        description="Directory for evaluation.json and .html; null: a run's own, and MLflow.",
    )
    flow: config.Bool = Field(
        default=False, description="Also measure the likelihood by the probability flow."
    )
    weights: Literal["ema", "raw"] = Field(default="ema", description="Averaged or last weights.")
    solver: str | None = Field(default=None, description="As sampler.solver; null: the run's.")
    num_inference_steps: config.Int | None = Field(
        default=None, description="Network evaluations per image; null: the run's."
    )
    grid: str | None = Field(default=None, description="As sampler.grid; null: the run's.")
    eta: config.Float | None = Field(default=None, description="As sampler.eta; null: the run's.")
    variance: str | None = Field(default=None, description="As sampler.variance; null: the run's.")
    guidance_scale: config.Float | None = Field(
        default=None, description="1 is off; null: the run's."
    )
    promote: Annotated[str, AfterValidator(_alias)] | None = Field(
        default=None,
        description="Register the model, and give it this alias, such as champion, if it is "
        "better than the one that has it.",
    )
    promote_by: str = Field(default="sample/fd", description="The figure that decides.")
    registered_model: Name | None = Field(
        default=None,
        description="Name to promote under; null: the run's tracking.registered_model.",
    )

    @model_validator(mode="after")
    def _promotes_what_is_registered(self) -> "EvaluateRequest":
        if self.promote is not None and self.weights == "raw":
            raise ValueError("weights: only averaged weights are registered; leave out promote")
        return self

    def again(self, resolved: dict[str, Any]) -> str:
        """The ``key=value`` that measure another model in the same way.

        Args:
            resolved: What the model decided where this did not.
        """
        own = {"model", "out", "weights", "promote", "registered_model"}
        given = self.model_dump(exclude=own, exclude_unset=True, exclude_none=True) | resolved
        words = {k: str(v).lower() if isinstance(v, bool) else v for k, v in given.items()}
        return shlex.join(f"{key}={word}" for key, word in words.items())


def main(argv: list[str]) -> None:
    """Draw images, measure them, print a table and write it down with pictures.

    Args:
        argv: ``MODEL [key=value ...]``.
    """
    request = config.request(
        argv, EvaluateRequest, verb="evaluate", doc=__doc__, positional=["model"]
    )
    from ray_diffusion.tracking.registry import at_hand

    with at_hand(request.model) as (name, place):
        _measure(request, name, place)


def _measure(request: EvaluateRequest, name: str, place: str) -> None:
    """Measure the model that lies at a place under the name that it has for good."""
    from ray_diffusion import pipeline
    from ray_diffusion.cluster import promotion
    from ray_diffusion.evaluation.features import features_of
    from ray_diffusion.evaluation.gallery import panels
    from ray_diffusion.evaluation.page import page
    from ray_diffusion.evaluation.report import evaluate, require_enough

    sampler = {key: getattr(request, key) for key in SAMPLER_KEYS}
    drawer = pipeline.load(place, request.weights, sampler, name if place != name else None)
    trained = drawer.config
    if request.flow and trained.data.codec is not None:
        raise errors.UsageError("flow: latents have no 8-bit levels to be probable; leave it out")
    if request.promote:
        configured = trained.tracking.registered_model
        registered = promotion.name_for(name, request.registered_model, configured)
    data = _data(drawer, request.dataset_url)
    train, val = _images(drawer, data)
    require_enough(request.num_images, len(val))  # before the work
    features = features_of(request.features, train)
    labels = drawer.labels(request.num_images)
    seeds = [request.seed + i for i in range(request.seeds)]
    draws = [drawer.draw(labels, seed) for seed in seeds]
    asked = labels if trained.model.num_classes else None
    report = evaluate(draws, asked, train, val, features)
    report = _with_errors(report, drawer, data, request.flow)
    facts = {
        "name": trained.run.name,
        "model": drawer.source,
        "weights": request.weights,
        "num_images": request.num_images,
        "seeds": seeds,
        "dataset_url": request.dataset_url or trained.data.dataset_url,
        "image_size": trained.data.image_size,
        "sampler": trained.sampler.model_dump(),
    } | report.to_dict()
    print(f"{drawer.source}, {request.num_images} images, seeds {seeds}\n{report.table()}")
    files = {
        FILE: json.dumps(facts, indent=1),
        PAGE: page(facts, panels(draws[0], asked, report, train, val, _png)),
    }
    _keep(request.out, place, drawer, report, files)
    if request.promote:
        version = promotion.registered(name, drawer.source, place, registered)
        chosen = trained.sampler.model_dump(include=set(SAMPLER_KEYS))  # the rest is the model's
        again = request.again({"dataset_url": facts["dataset_url"]} | chosen)
        said = facts | {"sampler": chosen}
        print(promotion.promoted(version, request.promote, request.promote_by, said, again))


def _with_errors(
    report: "Report", drawer: "Pipeline", data: config.schema.Data, flow: bool
) -> "Report":
    """Add what the model says about data that it did not draw: its score and likelihood."""
    from ray_diffusion.data.training_set import images_of, open_split
    from ray_diffusion.diffusion import profile
    from ray_diffusion.evaluation.figures import Figure
    from ray_diffusion.evaluation.likelihood import likelihood
    from ray_diffusion.models.draw import denoiser_of
    from ray_diffusion.training.validation import MOST_PROFILED, errors_at

    network, trained = drawer.network, drawer.config
    of_latents = trained.data.codec is not None
    if of_latents:
        report = dataclasses.replace(report, codec_fingerprint=str(trained.data.codec))
        if images_of(data) is data:
            return report  # images were asked for, and it knows latents alone
    val = open_split(data if of_latents else images_of(data), "val")
    levels = profile.PROFILE_LEVELS
    found_errors = errors_at(levels, network, val, trained, drawer.space, hidden=False)
    count = min(len(val), MOST_PROFILED)
    found = {
        "val/score": Figure(
            profile.score(found_errors), None, count, "error at fixed noise levels", "lower"
        ),
        "val/vlb_bpd": Figure(
            profile.vlb_bpd(found_errors), None, count, "bound between fixed noise levels", "lower"
        ),
    }
    if not of_latents:  # there are no 8-bit levels of latents to be probable
        model = profile.with_analytic_variance(denoiser_of(network, trained), found_errors)
        classes, device = bool(trained.model.num_classes), next(network.parameters()).device
        found |= likelihood(model, val, classes, device, flow)
    return dataclasses.replace(
        report,
        figures=report.figures | found,
        score_fingerprint=profile.fingerprint(),
    )


def _data(drawer: "Pipeline", dataset_url: str | None) -> config.schema.Data:
    """What the model is measured on: the data it was trained on, or other."""
    data = drawer.config.data
    if dataset_url is None:
        return data
    return data.model_copy(update={"dataset_url": dataset_url, "mixture_urls": ()})


def _images(drawer: "Pipeline", data: config.schema.Data) -> tuple["Dataset", "Dataset"]:
    """The splits of images that drawn ones are held against, if they are of the model's kind."""
    from ray_diffusion.data.training_set import images_of, open_split

    of_images = images_of(data)
    if of_images is data:  # whatever the model was trained on
        of_images = data.model_copy(update={"codec": None, "latent_size": None})
    else:
        open_split(data, "val")  # refuses latents of another codec, before the work
    train, val = (open_split(of_images, split) for split in ("train", "val"))
    manifest, classes = train.manifest, drawer.config.model.num_classes
    for what, has, wants in (
        ("channels", manifest.channels, drawer.image_shape[0]),
        ("classes", len(manifest.classes), classes or len(manifest.classes)),
    ):
        if has != wants:
            raise errors.DataError(
                f"{train.url} has {has} {what}, the model draws images with {wants}; "
                "give the dataset_url of a dataset like the one it was trained on"
            )
    return train, val


def _png(image: "Tensor") -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy()).save(file, "png")
    return file.getvalue()


def _keep(
    out: str | None, place: str, drawer: "Pipeline", report: "Report", files: dict[str, str]
) -> None:
    """Write the files where they were asked for, or into the run and to MLflow."""
    from ray_diffusion.cluster import summary
    from ray_diffusion.cluster.record import add_evaluation
    from ray_diffusion.storage import Directory

    where = Directory(out or place)
    shipped = True
    if out is not None:
        for name, content in files.items():
            where.write(name, content)
    elif summary.read(where) is None:
        return  # an exported or registered model, or a lone checkpoint: no run to add to
    else:
        # The run logged its own val/ metrics as it was trained.
        figures = {
            name: figure.value
            for name, figure in report.figures.items()
            if not name.startswith("val/")
        }
        shipped = add_evaluation(where, drawer.source, figures, files)
    print(f"{where.url}/{PAGE} and {FILE}" + ("" if shipped else "; not yet in MLflow"))


if __name__ == "__main__":
    sys.exit(errors.run(main))
