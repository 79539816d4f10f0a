"""The section ``autoencoder``: what a codec is trained for."""

from typing import Annotated

from pydantic import Field

from ray_diffusion.config.values import Float, Int, Text, Values

Weight = Annotated[Float, Field(ge=0)]


class Autoencoder(Values):
    """What model.kind=autoencoder minimises beside L1."""

    kl_weight: Weight = Field(
        default=1e-6,
        description="Of the divergence of the latents from a standard normal distribution, summed "
        "over them as errors are over pixels.",
    )
    pyramid_weight: Weight = Field(
        default=1.0, description="Of the L1 distance of Laplacian pyramids, which sees blur."
    )
    ssim_weight: Weight = Field(
        default=0.5, description="Of 1 - SSIM, the structural similarity of the images."
    )
    perceptual_url: Text | None = Field(
        default=None,
        min_length=1,
        description="A TorchScript file, such as LPIPS, called with two batches (B, C, H, W) in "
        "[-1, 1] and returning a distance of each pair; null: none.",
    )
    perceptual_weight: Weight = Field(default=1.0, description="Of that distance.")
    adversarial_weight: Weight = Field(
        default=0.0,
        description="Of a discriminator of patches that is trained at the same time; 0: none.",
    )
    adversarial_from_images: Int = Field(
        default=500_000,
        ge=0,
        description="Images seen before the discriminator counts, when blur is all that is left.",
    )
