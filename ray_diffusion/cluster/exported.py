"""The model that a checkpoint is without what only training needs, and how a registry tells it."""

import json
from pathlib import Path

import torch

from ray_diffusion import config as configs
from ray_diffusion.diffusion import profile
from ray_diffusion.models.build import build
from ray_diffusion.models.draw import image_shape
from ray_diffusion.storage import MANIFEST, digest, seal

FILES = ("config.yaml", "ema.safetensors")
PROFILE = "profile.json"
DESCRIBING_KEYS = (
    "model.kind",
    "model.num_classes",
    "diffusion.family",
    "diffusion.prediction_type",
    "sampler.solver",
    "sampler.num_inference_steps",
)


def export(checkpoint: Path, model: Path) -> dict[str, str]:
    """Make a model of a checkpoint: what sampling needs of it, and no more.

    Args:
        checkpoint: A whole checkpoint, on this machine; it is used up.
        model: Where to; made, and sealed.

    Returns:
        What describes the model as a version of a registered one: tags, each under its dotted
        config key where it has one. The same checkpoint always makes the same bytes.
    """
    model.mkdir()
    for name in FILES:
        (checkpoint / name).rename(model / name)
    state = json.loads((checkpoint / "state.json").read_text())
    (model / PROFILE).write_text(json.dumps(state["profile"]))
    seal(model)
    return describe(model) | {"ray_diffusion.images_seen": str(state["images_seen"])}


def describe(model: Path) -> dict[str, str]:
    """What an exported model's files say of it, as tags.

    Args:
        model: The exported model, on this machine.

    Returns:
        Tags, as of ``export`` but for the images seen, which the files do not tell.
    """
    config = configs.from_yaml((model / FILES[0]).read_text(), str(model / FILES[0]))
    with torch.device("meta"):
        parameters = sum(weight.numel() for weight in build(config).parameters())
    keys = configs.flatten(config)
    tags = {key: str(keys[key]) for key in DESCRIBING_KEYS} | {
        "ray_diffusion.image_shape": "x".join(map(str, image_shape(config))),
        "ray_diffusion.image_dtype": "uint8",
        "ray_diffusion.parameters": str(parameters),
    }
    errors = json.loads((model / PROFILE).read_text()) if (model / PROFILE).exists() else None
    if not errors:
        return tags
    score = profile.score(torch.tensor(errors, dtype=torch.float64))
    return tags | {"val/score": f"{score:.6g}"}


def folder_of(model: Path) -> str:
    """The folder of a run that holds this very model: ``models/DIGEST``, by what it holds."""
    return f"models/{str(digest(model / MANIFEST)['sha256'])[:16]}"
