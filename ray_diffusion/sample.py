"""Draw images from a trained model: from noise, from another image, or around a hole in one."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from ray_diffusion import config, errors

if TYPE_CHECKING:
    from torch import Tensor

    from ray_diffusion.pipeline import Pipeline

WHITE = 128  # from here on a mask counts as white
SAMPLER_KEYS = ("solver", "num_inference_steps", "grid", "eta", "variance", "guidance_scale")


class SampleRequest(config.Values):
    """Which model draws what."""

    model: str = Field(
        description="A run's, checkpoint's or exported model's directory or URL, or in MLflow "
        "mlflow:RUN_ID, models:/NAME@ALIAS or models:/NAME/VERSION."
    )
    num_images: config.Int = Field(default=64, ge=1, le=1_000_000, description="How many images.")
    seed: config.Int = Field(default=0, ge=0, description="Image i depends on (seed, i) alone.")
    out: str = Field(
        default="grid.png", description="NAME.png: one picture; NAME.npz: an array; else a folder."
    )
    class_label: config.Int | None = Field(
        default=None,
        description="One class; null: in turn, or none with init_image or interpolate_to_seed.",
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
    init_image: str | None = Field(
        default=None,
        description="A picture of the model's size, of which all images are variations, "
        "unless mask or noise_sigma says otherwise.",
    )
    strength: config.Float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="How far variations go from init_image; 1 leaves next to nothing of it.",
    )
    mask: str | None = Field(
        default=None,
        description="A picture that is white where init_image is drawn anew and black where it is "
        "kept, as in diffusers.",
    )
    resamplings: config.Int = Field(
        default=10,
        ge=1,
        description="How often each step around a mask is made, so that both sides agree; "
        "takes as many times as long.",
    )
    noise_sigma: Annotated[config.Float, Field(gt=0)] | None = Field(
        default=None,
        description="Take noise off init_image: its standard deviation, where black to white is 2. "
        "Solvers that draw no noise have one answer.",
    )
    interpolate_to_image: str | None = Field(
        default=None, description="Variations of mixes, from init_image to this one in even steps."
    )
    interpolate_to_seed: Annotated[config.Int, Field(ge=0)] | None = Field(
        default=None, description="From image 0 of seed to that of this seed in even steps."
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> "SampleRequest":
        for rule in RULES:
            if rule.broken(self):
                raise ValueError(rule.message)
        return self


class Rule(NamedTuple):
    """A combination of keys that means nothing, and what to say about it."""

    broken: Callable[[SampleRequest], bool]
    message: str


def _given(request: SampleRequest, key: str) -> bool:
    return key in request.model_fields_set and getattr(request, key) is not None


def _needs(key: str, other: str) -> Rule:
    return Rule(
        lambda r: _given(r, key) and not _given(r, other),
        f"{key}: says nothing without {other}=FILE.png",
    )


def _excludes(key: str, other: str) -> Rule:
    return Rule(
        lambda r: _given(r, key) and _given(r, other), f"{key}: does not go with {other}; give one"
    )


def _needs_two_images(key: str) -> Rule:
    return Rule(
        lambda r: _given(r, key) and r.num_images == 1,
        f"num_images: must be at least 2 with {key}, got 1",
    )


RULES = (
    _needs("strength", "init_image"),
    _needs("mask", "init_image"),
    _needs("resamplings", "mask"),
    _needs("noise_sigma", "init_image"),
    _needs("interpolate_to_image", "init_image"),
    _excludes("mask", "strength"),
    _excludes("mask", "noise_sigma"),
    _excludes("mask", "interpolate_to_image"),
    _excludes("noise_sigma", "strength"),
    _excludes("noise_sigma", "interpolate_to_image"),
    _excludes("interpolate_to_seed", "init_image"),
    _needs_two_images("interpolate_to_image"),
    _needs_two_images("interpolate_to_seed"),
    Rule(lambda r: r.interpolate_to_seed == r.seed, "interpolate_to_seed: must differ from seed"),
)


def main(argv: list[str]) -> None:
    """Draw images.

    Args:
        argv: ``MODEL [key=value ...]``.
    """
    request = config.request(argv, SampleRequest, verb="sample", doc=__doc__, positional=["model"])
    from ray_diffusion import pipeline
    from ray_diffusion.tracking.registry import at_hand

    sampler = {key: getattr(request, key) for key in SAMPLER_KEYS}
    with at_hand(request.model) as (name, place):
        drawer = pipeline.load(place, request.weights, sampler, name if place != name else None)
    images, labels = _draw(request, drawer)
    classes = [*map(str, range(drawer.config.model.num_classes or 0)), "none"]
    try:
        _write(Path(request.out), images, labels, classes)
    except OSError as error:
        raise errors.StorageError(f"cannot write {request.out}: {error.strerror}") from error
    how = drawer.config.sampler
    print(
        f"{request.out}: {len(images)} images by {drawer.source} "
        f"({request.weights}, {how.solver}, {how.num_inference_steps} steps, "
        f"guidance {how.guidance_scale:g}, seed {request.seed})"
    )


def _draw(request: SampleRequest, drawer: "Pipeline") -> tuple["Tensor", "Tensor"]:
    """The images asked for, and their labels."""
    count, seed = request.num_images, request.seed
    edits = request.init_image is not None or request.interpolate_to_seed is not None
    if edits and request.class_label is None:
        labels = drawer.no_labels(count)
    else:
        labels = drawer.labels(count, request.class_label)
    if request.interpolate_to_seed is not None:
        return drawer.interpolate(labels, seed, request.interpolate_to_seed), labels
    if request.init_image is None:
        return drawer.draw(labels, seed), labels
    return _edit(request, drawer, labels), labels


def _edit(request: SampleRequest, drawer: "Pipeline", labels: "Tensor") -> "Tensor":
    import torch

    channels, size, _ = drawer.image_shape

    def read(key: str, channels: int = channels) -> "Tensor":
        return _read(key, getattr(request, key), channels, size)[None]

    def encoded(key: str) -> "Tensor":
        return drawer.space.encode(read(key)).expand(len(labels), -1, -1, -1)

    seed, x0 = request.seed, encoded("init_image")
    if request.mask is not None:
        keep = (read("mask", channels=1) < WHITE).expand(len(labels), -1, -1, -1)
        return drawer.inpaint(labels, seed, x0, keep, request.resamplings)
    if request.noise_sigma is not None:
        return drawer.restore(labels, seed, x0, request.noise_sigma)
    if request.interpolate_to_image is None:
        return drawer.sdedit(labels, seed, x0, request.strength)
    share = torch.linspace(0, 1, len(labels)).view(-1, 1, 1, 1)
    mixes = (1 - share) * x0 + share * encoded("interpolate_to_image")
    return drawer.sdedit(labels, seed, mixes, request.strength, one_noise=True)


def _read(key: str, file: str, channels: int, size: int) -> "Tensor":
    """The pixels of a picture, uint8, shape ``(C, H, W)``."""
    import numpy as np
    import torch
    from PIL import Image

    modes = {1: "L", 3: "RGB"}
    if channels not in modes:
        raise errors.UsageError(f"{key}: the model's images have {channels} channels, files 1 or 3")
    try:
        with Image.open(file) as picture:
            if picture.size != (size, size):
                raise errors.UsageError(
                    f"{key}: {file} has {picture.width}x{picture.height} pixels, "
                    f"must have the model's {size}x{size}"
                )
            if picture.mode[0] in "IF":
                raise errors.UsageError(f"{key}: {file} has more than 8 bits per channel")
            if picture.convert("RGBA").getchannel("A").getextrema() != (255, 255):
                raise errors.UsageError(f"{key}: {file} is transparent; save it without an alpha")
            pixels = np.array(picture.convert(modes[channels]))
    except FileNotFoundError as error:
        raise errors.UsageError(f"{key}: there is no file {file}") from error
    except OSError as error:
        raise errors.UsageError(f"{key}: {file} is no image that can be read") from error
    return torch.from_numpy(pixels).view(size, size, channels).permute(2, 0, 1)


def _write(out: Path, images: "Tensor", labels: "Tensor", classes: list[str]) -> None:
    import numpy as np
    from PIL import Image

    from ray_diffusion.models.pixels import contact_sheet

    if out.suffix == ".npz":
        np.savez(out, images=images.permute(0, 2, 3, 1).numpy(), labels=labels.numpy())
    elif out.suffix == ".png":
        columns = min(len(images), 10)
        Image.fromarray(contact_sheet(images, columns).numpy()).save(out)
    else:
        out.mkdir(parents=True, exist_ok=True)
        for i, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            pixels = image.permute(1, 2, 0).squeeze(2).numpy()
            Image.fromarray(pixels).save(out / f"{i:06d}-{classes[label]}.png")


if __name__ == "__main__":
    sys.exit(errors.run(main))
