"""The codec of a run's latents, kept in the run and in the models that come of it."""

import shutil
import tempfile
from pathlib import Path

from ray_diffusion.config import Config
from ray_diffusion.data.training_set import open_split
from ray_diffusion.errors import StorageError, UsageError
from ray_diffusion.models.codecs import space as spaces
from ray_diffusion.pipeline import CODEC
from ray_diffusion.storage import MANIFEST, Directory
from ray_diffusion.training.latents import latents_of


def keep_codec(config: Config, run: Directory) -> None:
    """Copy the codec of the dataset into the run, with its latents' scale, unless it is there.

    Args:
        config: The resolved configuration.
        run: The run's directory.

    Raises:
        UsageError: If the run has learned latents of another scale.
        DataError: If the dataset lacks its codec.
        StorageError: If it cannot be read or written.
    """
    if config.data.codec is None:
        return
    train = open_split(config.data, "train")
    assert train.manifest.latents is not None
    space = latents_of(train.url, train.manifest.latents)
    kept = _kept_scale(run)
    if kept is not None:
        if kept != space.scale:
            raise UsageError(
                f"{run.url} has learned latents by the means and deviations of another dataset, "
                f"and would draw wrong colours after those of {train.url}; choose another "
                "run.name, and this run as its run.init_from"
            )
        return
    with tempfile.TemporaryDirectory() as scratch:
        space.save(Path(scratch))
        run.publish(Path(scratch), CODEC)


def _kept_scale(run: Directory) -> str | None:
    """What ``Latents.scale`` of a run's latents is; None before it has a whole codec."""
    folder = run / CODEC
    said = folder.read(spaces.SCALE) if folder.read(MANIFEST) else None
    return None if said is None else said.decode()


def add_codec(config: Config, run: Directory, checkpoint: Path) -> None:
    """Put the files of a run's codec beside those of a checkpoint.

    Args:
        config: The resolved configuration.
        run: The run's directory.
        checkpoint: A copy on this machine.

    Raises:
        StorageError: If the run's codec is missing or damaged.
    """
    if config.data.codec is None:
        return
    with tempfile.TemporaryDirectory() as scratch:
        problem = run.fetch(CODEC, Path(scratch))
        if problem is not None:
            raise StorageError(f"{run.url}/{CODEC} {problem}")
        for file in Path(scratch).iterdir():
            if file.name != MANIFEST:
                shutil.move(file, checkpoint / file.name)
