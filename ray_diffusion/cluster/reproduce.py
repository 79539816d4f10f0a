"""A run that starts again from nothing but its page in MLflow."""

from collections.abc import Mapping
from typing import Any

from ray_diffusion.config import Config
from ray_diffusion.tracking.identity import tracking_uri
from ray_diffusion.tracking.page import read_page
from ray_diffusion.tracking.registry import RUN_SCHEME

SCHEME = RUN_SCHEME.removesuffix(":")

COMPARED = (
    "ray_diffusion.dataset_fingerprint",
    "git.commit",
    "git.diff",
    "version.torch",
    "environment.digest",
    "hardware.cpu",
)
"""Tags that tell of what the last bit of a run's weights may depend on, but for its config."""


class Reproduction:
    """What a command line takes from a page; nothing, until it names one."""

    def __init__(self) -> None:
        self._tags: Mapping[str, str] = {}

    def fetch(self, word: str, typed: Mapping[str, Any]) -> str:
        """The config on a page, as YAML.

        Args:
            word: ``mlflow:RUN_ID``.
            typed: The keys given beside it, which may say where MLflow is.

        Raises:
            ConfigError: If no MLflow follows from the keys.
            UsageError: If MLflow has no such run, or not its config.
            TrackingError: If MLflow cannot be reached.
        """
        storage_url = typed.get("run.storage_url") or Config().run.storage_url
        uri, _ = tracking_uri(typed.get("tracking.uri"), storage_url)
        page = read_page(word.removeprefix(RUN_SCHEME), uri)
        self._tags = page.tags
        return page.config

    def differences(self, here: Mapping[str, str]) -> list[str]:
        """What is not as it was, and may show in the weights.

        Args:
            here: The tags of the run that is to start.

        Returns:
            A line for each; a run on whose page something is missing is not compared in that.
        """
        return [
            f"not as on the run's page, so its weights may differ: {tag} was {self._tags[tag]}, "
            f"is {here.get(tag, 'unknown')}"
            for tag in COMPARED
            if tag in self._tags and self._tags[tag] != here.get(tag)
        ]
