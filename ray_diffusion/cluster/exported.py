"""The model that a checkpoint is without what only training needs, and how a registry tells it."""

import json
from pathlib import Path

import torch

from ray_diffusion import config as configs
from ray_diffusion.diffusion import profile
from ray_diffusion.models.build import build
from ray_diffusion.models.codecs import space as spaces
from ray_diffusion.models.codecs import stored
from ray_diffusion.models.draw import x0_shape
from ray_diffusion.storage import MANIFEST, digest, seal

FILES = ("config.yaml", "ema.safetensors")
CODEC_FILES = (stored.FILE, stored.WEIGHTS, spaces.SCALE)  # where latents are drawn
PROFILE = "profile.json"
DESCRIBING_KEYS = (
    "model.kind",
    "model.num_classes",
    "diffusion.family",
    "diffusion.prediction_type",
    "sampler.solver",
    "sampler.num_inference_steps",
    "data.codec",
)
CODEC_KEYS = ("model.kind", "model.latent_channels", "model.channel_mults", "model.patch_size")


def export(checkpoint: Path, model: Path) -> dict[str, str]:
    """Make a model of a checkpoint: what sampling needs of it, and no more.

    Args:
        checkpoint: A whole checkpoint, on this machine, and its codec's files if it has one; it is
            used up.
        model: Where to; made, and sealed.

    Returns:
        What describes the model as a version of a registered one: tags, each under its dotted
        config key where it has one. The same checkpoint always makes the same bytes.
    """
    model.mkdir()
    for name in (*FILES, *CODEC_FILES):
        if name in FILES or (checkpoint / name).exists():
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
    keys, of_codec = configs.flatten(config), config.model.learns_codec
    shape = spaces.load(model).image_shape(x0_shape(config))
    said = {key: keys[key] for key in (CODEC_KEYS if of_codec else DESCRIBING_KEYS)}
    tags = {key: str(value) for key, value in said.items() if value is not None} | {
        "ray_diffusion.image_shape": "x".join(map(str, shape)),
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
