"""Two convolutions: the least that learns anything, from a tutorial on a 24-step schedule."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ray_diffusion.models.embedding import LEAST, MOST


class Tiny(nn.Module):
    """Predicts from a noisy image; level and class only shift all of the prediction.

    They are added behind the only non-linearity, as in the tutorial, so the two cannot change how
    the image is read. The class is our addition.

    Args:
        image_channels: Channels of the image.
        out_channels: Channels of the prediction.
        num_classes: Classes; one more, ``num_classes`` itself, means "no class".
        channels: Width between the convolutions; the tutorial's is 16.
    """

    def __init__(
        self, image_channels: int, out_channels: int, num_classes: int, channels: int
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(image_channels, channels, 3, padding=1)
        self.conv_out = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.level = nn.Linear(1, channels)
        self.class_embedding = nn.Embedding(num_classes + 1, channels)

    def forward(self, x_t: Tensor, logsnr: Tensor, condition: Tensor) -> Tensor:
        """Predict; see ``unet.UNet.forward``."""
        h = F.relu(self.conv_in(x_t.contiguous(memory_format=torch.channels_last)))
        # The tutorial draws one timestep for the whole batch and shows its bare number. A gradient
        # would then know a single level, and the number be large, and another level, for another T.
        level = self.level(logsnr.float().clamp(LEAST, MOST)[:, None] / MOST)
        h = h + (level + self.class_embedding(condition))[:, :, None, None]
        return self.conv_out(h)  # type: ignore[no-any-return]
