"""The discrete cosine transform of small squares, as in JPEG: a codec without weights."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_diffusion.models.codecs.codec import Codec, Posterior

LARGEST = 64  # side of a square, pixels


def zigzag(side: int) -> list[tuple[int, int]]:
    """The order in which JPEG visits the frequencies of a square (ITU-T T.81).

    Args:
        side: Of the square.

    Returns:
        Vertical and horizontal frequency of each coefficient, low ones first; each in
        ``range(side)``.
    """
    every = [(i, j) for i in range(side) for j in range(side)]
    return sorted(every, key=lambda at: (sum(at), at[0] if sum(at) % 2 else at[1]))


def dct_basis(side: int) -> Tensor:
    """The orthonormal DCT-II of ``side`` values.

    Args:
        side: How many.

    Returns:
        ``sqrt((2 - [k = 0]) / side) cos(pi (n + 1/2) k / side)``, shape ``(side, side)``: frequency
        ``k``, place ``n``; float64.
    """
    place = torch.arange(side, dtype=torch.float64) + 0.5
    angle = torch.outer(torch.arange(side), place) * (torch.pi / side)
    basis: Tensor = angle.cos() * (2 / side) ** 0.5
    basis[0] /= 2**0.5
    return basis


class BlockDct(Codec):
    """The lowest frequencies of each square of an image.

    Latents are the coefficients of the orthonormal two-dimensional DCT-II divided by ``factor``:
    the first is the mean of its square, and squares of latents sum to those of the pixels divided
    by ``factor^2``. Coefficients follow one another as in ``zigzag``, each for all channels of the
    image, so the first ``image_channels`` channels of a latent are a thumbnail.

    With all ``factor^2`` coefficients nothing is lost. Up to ``factor`` 8, latents may then be kept
    in float16 and pixels of 8 bits still come back: rounding moves a pixel by less than
    ``factor / 2048``, half a level is 1 / 255.

    Args:
        image_channels: Channels of an image.
        factor: Side of the squares, at least 1.
        coefficients: How many to keep of each square, 1 to ``factor^2``.

    Raises:
        ValueError: If there are no such squares, or not as many coefficients.
    """

    stochastic = False
    weight: Tensor

    def __init__(self, image_channels: int, factor: int, coefficients: int) -> None:
        super().__init__()
        if not 1 <= factor <= LARGEST:
            raise ValueError(f"block-dct: squares of side {factor}; it must be 1 to {LARGEST}")
        if not 1 <= coefficients <= factor**2:
            raise ValueError(
                f"block-dct: {coefficients} coefficients of squares of side {factor}; "
                f"it must be 1 to {factor**2}"
            )
        self.options = {
            "image_channels": image_channels,
            "factor": factor,
            "coefficients": coefficients,
        }
        self.image_channels, self.factor = image_channels, factor
        self.latent_channels = image_channels * coefficients
        rows, columns = zip(*zigzag(factor)[:coefficients], strict=True)
        basis = dct_basis(factor)
        waves = torch.einsum("ky,kx->kyx", basis[list(rows)], basis[list(columns)]) / factor
        # Each coefficient sees one channel alone: shape (coefficients, out, in, y, x).
        apart = torch.einsum("kyx,oi->koiyx", waves, torch.eye(image_channels, dtype=torch.float64))
        self.register_buffer("weight", apart.flatten(0, 1).float(), persistent=False)

    def encode(self, x0: Tensor) -> Posterior:
        """See ``Codec``."""
        return Posterior(F.conv2d(x0, self.weight, stride=self.factor))

    def decode(self, latents: Tensor) -> Tensor:
        """See ``Codec``; what was not kept is taken as 0."""
        inverse = self.weight * self.factor**2
        return F.conv_transpose2d(latents, inverse, stride=self.factor)
