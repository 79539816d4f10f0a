"""Encode a dataset of images: latents for diffusion models, made once instead of at every step.

The codec is identity, block-dct:FACTOR,COEFFICIENTS, diffusers:DIRECTORY_OR_ID, or an autoencoder
that was trained with model.kind=autoencoder. An encoder that was killed goes on when the same
command is typed again.
"""

import math
import shlex
import sys
from typing import TYPE_CHECKING

from pydantic import Field

from ray_diffusion import config, errors

if TYPE_CHECKING:
    from ray_diffusion.data.manifest import Manifest

FEW = 5_000  # images that are not worth starting Ray for


class EncodeRequest(config.Reach):
    """What to encode, with what, and where to."""

    source: str = Field(description="A packed dataset's directory or URL, or builtin:NAME.")
    codec: str = Field(
        description="identity, block-dct:FACTOR,COEFFICIENTS, diffusers:DIRECTORY_OR_ID, or an "
        "autoencoder: a run's, checkpoint's or exported model's directory or URL, mlflow:RUN_ID, "
        "models:/NAME@ALIAS."
    )
    out: str = Field(description="The directory of the latents: a path or fsspec URL.")
    image_size: config.Int | None = Field(
        default=None, ge=4, le=1024, description="Side at which builtin:NAME is packed, pixels."
    )
    horizontal_flip: config.Bool = Field(
        default=False,
        description="Encode mirror images too, for data.horizontal_flip: a mirrored latent is not "
        "the latent of a mirrored image.",
    )
    workers: config.Int | None = Field(
        default=None,
        ge=1,
        description="Shards under way at once: 1 in this process, more on Ray; null: 1 for up to "
        f"{FEW:,} images, else as many as the cluster has GPUs, or CPUs.",
    )
    overwrite: config.Bool = Field(default=False, description="Replace a dataset that is there.")


def main(argv: list[str]) -> None:
    """Encode a dataset.

    Args:
        argv: ``source=URL codec=CODEC out=URL [key=value ...]``.
    """
    request = config.request(argv, EncodeRequest, verb="encode", doc=__doc__)
    from ray_diffusion.cluster.encoding import ShardEncoder, codec_of, reconstruction_psnr
    from ray_diffusion.cluster.stages import progress, runner
    from ray_diffusion.data.packing.encode import earlier_latents, encode, source_of
    from ray_diffusion.data.packing.stats import summary
    from ray_diffusion.storage import Directory, options

    options.use(request.storage_options)
    out, size, mirrored = Directory(request.out), request.image_size, request.horizontal_flip
    _, images = source_of(request.source, size, out)
    encoder = ShardEncoder(codec := codec_of(request.codec, images.channels), out)
    mark, there = encoder.fingerprint, None
    if not request.overwrite:
        there = earlier_latents(out, request.source, mark, mirrored, size)
    if there is None:
        out.check_writable()
        count = sum(map(images.examples, images.splits))
        workers = request.workers or (1 if count <= FEW else None)
        with runner(workers, request, on_gpus=True) as run, progress("images") as tell:
            there = encode(
                *(request.source, encoder, request.out, mirrored, run, tell, request.overwrite),
                image_size=size,
            )
    else:
        encoder.publish()  # which may have been lost since
        print("encoded already, by this very request")
    print(summary(there))
    psnr = reconstruction_psnr(codec, out.url, there)
    back = "exactly" if math.isinf(psnr) else f"at {psnr:.1f} dB PSNR"
    print(f"codec: {mark}; images come back from their latents {back}")
    print(f"{out.url} is a dataset, fingerprint {there.fingerprint}")
    print(f"next: {_next(there, out.url, mirrored)}")


def _next(manifest: "Manifest", url: str, mirrored: bool) -> str:
    """The command that trains on latents."""
    return (
        f"python -m ray_diffusion.train run.name=latent {shlex.quote(f'data.dataset_url={url}')} "
        f"data.image_size={manifest.image_size}"
        + (" data.horizontal_flip=true" if mirrored else "")
    )


if __name__ == "__main__":
    sys.exit(errors.run(main))
