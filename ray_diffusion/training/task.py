"""What a run learns: the seam between the loop, which is the same for all, and a loss."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ray_diffusion.config import Config
from ray_diffusion.data.reader import Batch


class Found(NamedTuple):
    """What a validation finds.

    Attributes:
        metrics: By name. ``val/score`` is among them: by which runs of one task compare, lower is
            better.
        profile: The error at each of ``PROFILE_LEVELS``; empty where there are no noise levels.
    """

    metrics: dict[str, float]
    profile: list[float]


class Task(Protocol):
    """A run's loss, how it is judged, and what is shown of it.

    Attributes:
        config: The run's configuration.
        device: Where it trains.
    """

    config: Config
    device: torch.device

    def losses(self, network: nn.Module, batch: Batch, places: range, images_seen: int) -> Tensor:
        """The loss of each example.

        Args:
            network: What is trained.
            batch: Examples, on any device.
            places: Theirs in the global batch. All draws are named by them, the run's seed and
                the images seen.
            images_seen: Before this step.

        Returns:
            Losses, shape ``(B,)``, on the device.
        """
        ...

    def validate(self, average: nn.Module) -> Found:
        """Measure averaged weights on the validation split; all workers together.

        Args:
            average: A network that each worker may call on its own.
        """
        ...

    def previews(self, networks: Mapping[str, nn.Module], found: Found) -> dict[str, Tensor]:
        """Pictures of what networks do now; of the same examples each time.

        Args:
            networks: By name.
            found: What the validation of the averaged one has found.

        Returns:
            A contact sheet of each, uint8, shape ``(height, width, 3)``.
        """
        ...
