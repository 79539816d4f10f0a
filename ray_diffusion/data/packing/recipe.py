"""What a packer does to images: the part of a request that a dataset's bytes depend on."""

from typing import Literal

from pydantic import Field

from ray_diffusion.config import Float, Int, Values

SMALLEST, LARGEST = 4, 1024  # pixels: what image_size may be
SMALL = 64  # pixels: up to here PNG is the default, beyond it decoding PNG would take too long


class Recipe(Values):
    """How images become the examples of a dataset."""

    image_size: Int | None = Field(
        default=None,
        ge=SMALLEST,
        le=LARGEST,
        description="Side in pixels; null: as the images are, if all are squares of one size.",
    )
    channels: Literal[1, 3] | None = Field(
        default=None, description="1 grey, 3 colour; null: grey if every image is."
    )
    fit: Literal["center_crop", "pad", "stretch"] = Field(
        default="center_crop", description="How an oblong image becomes a square."
    )
    resample: Literal["lanczos", "area", "bicubic"] = Field(
        default="lanczos", description="Filter that changes the size."
    )
    encoding: Literal["png", "jpeg", "webp", "keep"] | None = Field(
        default=None,
        description="Format of the stored images; keep: the source's own bytes where nothing has "
        "to be changed, else png; null: png up to 64 pixels, jpeg above.",
    )
    quality: Int = Field(default=95, ge=1, le=100, description="Of jpeg and webp.")
    min_side: Int = Field(default=1, ge=1, description="Images with a shorter side are left out.")
    max_aspect: Float = Field(
        default=3.0,
        ge=1,
        description="Images whose longer side is more times the shorter are left out.",
    )
    max_pixels: Int = Field(
        default=89_478_485,
        ge=1,
        le=178_956_970,  # beyond it Pillow refuses by itself
        description="Images with more pixels are left out unread: they may be bombs.",
    )
    duplicates: Literal["keep", "exact", "near"] = Field(
        default="exact",
        description="Which copies to leave out, within and across splits: none, those with equal "
        "pixels, also those that merely look alike.",
    )
    val_fraction: Float = Field(
        default=0.2, ge=0, lt=1, description="Share of the images kept for validation."
    )
    test_fraction: Float = Field(
        default=0.0, ge=0, lt=1, description="Share of the images kept for a final test."
    )
    examples_per_shard: Int = Field(default=512, ge=1, description="Images per shard.")
    max_unreadable: Float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Largest share of images that may be unreadable or damaged; beyond it "
        "nothing is packed.",
    )
