"""Pack images into a dataset: webdataset shards and a manifest, in any storage."""

import sys

from pydantic import Field

from ray_diffusion import config, errors


class PackRequest(config.Values):
    """What to pack, and where to."""

    source: str = Field(default="builtin:digits", description="A built-in image set.")
    out: str = Field(description="The dataset's directory: a path or fsspec URL.")
    image_size: config.Int = Field(default=8, ge=4, le=1024, description="Side in pixels.")
    val_fraction: config.Float = Field(
        default=0.2, gt=0, lt=1, description="Share of images kept for validation."
    )
    examples_per_shard: config.Int = Field(default=512, ge=1, description="Images per shard.")


def main(argv: list[str]) -> None:
    """Pack a source.

    Args:
        argv: ``source=builtin:NAME out=URL [key=value ...]``.
    """
    request = config.request(argv, PackRequest, verb="pack", doc=__doc__)
    from ray_diffusion.data.builtin import source_name
    from ray_diffusion.data.pack import pack
    from ray_diffusion.storage import Directory

    name = source_name(request.source)
    directory = Directory(request.out)
    directory.check_writable()
    manifest = pack(
        name, request.out, request.image_size, request.val_fraction, request.examples_per_shard
    )
    for split, shards in manifest.splits.items():
        size = sum(shard.bytes for shard in shards) / 1e6
        print(
            f"{split:<6} {manifest.examples(split):,} images, {len(shards)} shards, {size:.1f} MB"
        )
    print(f"{directory.url} is a dataset, fingerprint {manifest.fingerprint}")
    print(
        f"next: python -m ray_diffusion.train run.name=NAME data.dataset_url={request.out}"
        + (f" data.image_size={request.image_size}" if request.image_size != 8 else "")
    )


if __name__ == "__main__":
    sys.exit(errors.run(main))
