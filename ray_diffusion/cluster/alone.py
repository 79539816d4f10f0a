"""A run of one worker in the process that launches it, without Ray Train."""

from typing import Any

import torch

from ray_diffusion.cluster.board import Board
from ray_diffusion.cluster.worker import Assignment, train_one
from ray_diffusion.config import Config


class Alone:
    """What ``Group`` is for several workers.

    Args:
        config: The resolved configuration.
        board: Where the worker tells of its progress, and is told to stop.
    """

    def __init__(self, config: Config, board: Board) -> None:
        self._config, self.board = config, board

    def train(self, fields: dict[str, Any]) -> None:
        """Train to the end.

        Args:
            fields: Those of an ``Assignment``.

        Raises:
            RayDiffusionError: The reason, if the run did not reach its end.
        """
        self.board.started(0, 1, "")
        device = torch.device("cuda" if self._config.cluster.use_gpu else "cpu")
        train_one(Assignment(**fields), self.board, 0, device)

    def told(self) -> dict[str, Any]:
        """What the board says."""
        return self.board.read()
