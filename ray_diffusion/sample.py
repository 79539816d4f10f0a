"""Draw images from a trained model: a picture of them all, an array, or a folder of files."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ray_diffusion import config, errors

if TYPE_CHECKING:
    from torch import Tensor


class SampleRequest(config.Values):
    """Which model draws what."""

    model: str = Field(description="A run's, checkpoint's or exported model's directory or URL.")
    num_images: config.Int = Field(default=64, ge=1, le=1_000_000, description="How many images.")
    seed: config.Int = Field(default=0, ge=0, description="Image i depends on (seed, i) alone.")
    out: str = Field(
        default="grid.png", description="NAME.png: one picture; NAME.npz: an array; else a folder."
    )
    class_label: config.Int | None = Field(default=None, description="One class; null: in turn.")
    weights: Literal["ema", "raw"] = Field(default="ema", description="Averaged or last weights.")
    solver: str | None = Field(default=None, description="As sampler.solver; null: the run's.")
    num_inference_steps: config.Int | None = Field(
        default=None, description="Network evaluations per image; null: the run's."
    )
    guidance_scale: config.Float | None = Field(
        default=None, description="1 is off; null: the run's."
    )


def main(argv: list[str]) -> None:
    """Draw images.

    Args:
        argv: ``MODEL [key=value ...]``.
    """
    request = config.request(argv, SampleRequest, verb="sample", doc=__doc__, positional=["model"])
    from ray_diffusion import pipeline

    keys = ("solver", "num_inference_steps", "guidance_scale")
    sampler = {key: getattr(request, key) for key in keys}
    drawer = pipeline.load(request.model, request.weights, sampler)
    labels = drawer.labels(request.num_images, request.class_label)
    images = drawer.draw(labels, request.seed)
    try:
        _write(Path(request.out), images, labels)
    except OSError as error:
        raise errors.StorageError(f"cannot write {request.out}: {error.strerror}") from error
    how = drawer.config.sampler
    print(
        f"{request.out}: {len(images)} images by {drawer.source} "
        f"({request.weights}, {how.solver}, {how.num_inference_steps} steps, "
        f"guidance {how.guidance_scale:g}, seed {request.seed})"
    )


def _write(out: Path, images: "Tensor", labels: "Tensor") -> None:
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
            Image.fromarray(pixels).save(out / f"{i:06d}-{label}.png")


if __name__ == "__main__":
    sys.exit(errors.run(main))
