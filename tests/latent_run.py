"""A run that is trained on latents of the digits, and all that it came from: once for all tests."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tiny_config import TINY

from ray_diffusion import config as configs
from ray_diffusion.cluster.encoding import ShardEncoder
from ray_diffusion.cluster.exported import export
from ray_diffusion.cluster.latents import add_codec, keep_codec
from ray_diffusion.cluster.plan import prepare
from ray_diffusion.config import Config
from ray_diffusion.data.packing.embedded import digits
from ray_diffusion.data.packing.encode import encode
from ray_diffusion.data.packing.pack import pack
from ray_diffusion.data.packing.recipe import Recipe
from ray_diffusion.models.codecs.block_dct import BlockDct
from ray_diffusion.models.codecs.codec import Codec
from ray_diffusion.storage import Directory
from ray_diffusion.training.harness import in_directory
from ray_diffusion.training.loop import loop
from ray_diffusion.training.retention import Keep

CHECKPOINT = "checkpoint-000000000128"
ONE_STEP = {**TINY, "training.total_images": 128, "sampler.num_inference_steps": 3}


@dataclass(frozen=True)
class LatentRun:
    """A run of one step, trained on latents of 4 x 4 x 4 that lose nothing of 8x8 digits.

    Attributes:
        images: The digits, packed.
        latents: Their latents.
        run: The run's directory.
        config: Its configuration.
    """

    images: Path
    latents: Path
    run: Path
    config: Config

    @property
    def checkpoint(self) -> Path:
        """The run's only one."""
        return self.run / CHECKPOINT

    def exported(self, directory: Path) -> dict[str, str]:
        """Export the model, as a launch does at its end; its tags."""
        checkpoint = shutil.copytree(self.checkpoint, directory.with_name("used up"))
        add_codec(self.config, Directory(str(self.run)), checkpoint)
        return export(checkpoint, directory)


@pytest.fixture(scope="session")
def encoded() -> Callable[..., Path]:
    """Encodes a dataset of images."""

    def encoded(images: Path, codec: Codec, out: Path, mirrored: bool = False) -> Path:
        encode(str(images), ShardEncoder(codec, Directory(str(out))), str(out), mirrored)
        return out

    return encoded


@pytest.fixture(scope="session")
def latent_run(tmp_path_factory: pytest.TempPathFactory, encoded: Callable[..., Path]) -> LatentRun:
    """The run; not to be changed."""
    home = tmp_path_factory.mktemp("latent run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        pack(digits(None), Recipe(), str(home / "images"))
        latents = encoded(home / "images", BlockDct(1, 2, 4), home / "latents")
        keys = {"data.dataset_url": str(latents), "run.storage_url": str(home / "runs")}
        plan = prepare(configs.override(configs.load([]), ONE_STEP | keys))
        keep_codec(plan.config, plan.run)
        loop(plan.config, in_directory(plan.run, Keep(1)), torch.device("cpu"))
    return LatentRun(home / "images", latents, home / "runs" / "digits", plan.config)
