"""Trained models from where they lie: runs, checkpoints and exported models."""

import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ray_diffusion import config as configs
from ray_diffusion.config import Config
from ray_diffusion.errors import DataError, StorageError, UsageError, warn
from ray_diffusion.models.build import build
from ray_diffusion.models.codecs import space as spaces
from ray_diffusion.models.codecs import stored
from ray_diffusion.models.codecs.codec import Codec
from ray_diffusion.models.codecs.space import LatentSpace, Space
from ray_diffusion.models.reconstructor import Reconstructor
from ray_diffusion.pipeline.drawing import Pipeline
from ray_diffusion.storage import Directory, options
from ray_diffusion.training import checkpoint

WEIGHTS = {"ema": "ema.safetensors", "raw": "model.safetensors"}
CODEC = "codec"  # the folder of a run that holds the codec of its latents


def load(
    model: str,
    weights: str = "ema",
    sampler: dict[str, object] | None = None,
    name: str | None = None,
) -> Pipeline:
    """Load a trained model.

    Args:
        model: A run's directory, a checkpoint's, or an exported model's; a path or URL.
        weights: ``"ema"`` or ``"raw"``.
        sampler: Changes to the ``sampler`` section; None values are ignored.
        name: Its source, where that is not the directory; None if it is.

    Returns:
        The pipeline, on the GPU if there is one.

    Raises:
        UsageError: If there is no model, or not with those weights.
        StorageError: If it is damaged.
        ConfigError: If the changed sampler contradicts the model.
    """
    directory = Directory(model)
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch)
        found = fetch(directory, local)
        source = name or found
        file = local / WEIGHTS[weights]
        if not file.exists():
            raise UsageError(f"{source} has no {weights} weights ({WEIGHTS[weights]})")
        config = configs.from_yaml((local / "config.yaml").read_text(), f"{source}/config.yaml")
        if config.model.learns_codec:
            raise UsageError(
                f"{source} is an autoencoder, which draws nothing; "
                "python -m ray_diffusion.encode makes latents with it, for a model that draws"
            )
        changes = {f"sampler.{k}": v for k, v in (sampler or {}).items() if v is not None}
        config = configs.override(config, changes)
        options.use(config.run.storage_options)  # the dataset is where the run's was
        network = build(config)
        network.load_state_dict(load_file(file))
        profile, space = _profile(local), _space(directory, local, config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.eval().requires_grad_(False).to(device)
    return Pipeline(config, network, space, source, profile)


def load_codec(model: str) -> Codec:
    """The codec that an autoencoder has become.

    Args:
        model: As of ``load``.

    Returns:
        The codec, of averaged weights.

    Raises:
        UsageError: If there is no model, or it is no autoencoder.
        StorageError: If it is damaged.
    """
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch)
        source = fetch(Directory(model), local)
        config = configs.from_yaml((local / "config.yaml").read_text(), f"{source}/config.yaml")
        if not config.model.learns_codec:
            raise UsageError(
                f"{source} is no autoencoder but a {config.model.kind}; train one with "
                "model.kind=autoencoder"
            )
        trained = build(config)
        trained.load_state_dict(load_file(local / WEIGHTS["ema"]))
    assert isinstance(trained, Reconstructor)
    return trained.autoencoder.eval().requires_grad_(False)


def _space(directory: Directory, local: Path, config: Config) -> Space:
    """What a model works on: its own files say it, or its run's."""
    wanted = config.data.codec
    if wanted is None or (local / spaces.SCALE).exists():
        return spaces.load(local, directory.url)
    problems = []
    for run in (directory, Directory(directory.url.rpartition("/")[0])):
        with tempfile.TemporaryDirectory() as scratch:
            problem = run.fetch(CODEC, Path(scratch))
            if problem is not None:
                problems.append(f"{run.url}/{CODEC} {problem}")
                continue
            space = spaces.load(Path(scratch), f"{run.url}/{CODEC}")
            assert isinstance(space, LatentSpace)
            found = stored.fingerprint(space.codec)
            if found != wanted:
                raise DataError(
                    f"{run.url}/{CODEC} is {found}, the model draws latents of {wanted}"
                )
            return space
    raise StorageError(
        f"{directory.url} draws latents of {wanted}, and neither it nor its run has that codec: "
        + ", ".join(problems)
    )


def _profile(model: Path) -> Tensor | None:
    """The profile in a checkpoint's state, or beside an exported model's weights."""
    state, alone = model / "state.json", model / "profile.json"
    if state.exists():
        found = json.loads(state.read_text()).get("profile")
    else:
        found = json.loads(alone.read_text()) if alone.exists() else None
    return torch.tensor(found, dtype=torch.float64) if found else None


def fetch(directory: Directory, into: Path) -> str:
    """Bring a model to this machine; where it came from."""
    if checkpoint.names(directory):
        name = checkpoint.fetch_newest(directory, into, warn)
        if name is None:
            raise StorageError(f"{directory.url} has no whole checkpoint")
        return f"{directory.url}/{name}"
    if not {"config.yaml", "ema.safetensors"} <= set(directory.names()):
        raise UsageError(
            f"{directory.url} is no model: it is neither a run with a checkpoint, "
            "nor a checkpoint, nor an exported model"
        )
    problem = directory.fetch("", into)
    if problem is not None:
        raise StorageError(f"{directory.url} {problem}")
    return directory.url
