"""Codecs in files: ``codec.json``, and beside it ``codec.safetensors`` where there are weights."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ray_diffusion.errors import DataError
from ray_diffusion.models.codecs.autoencoder import Autoencoder
from ray_diffusion.models.codecs.block_dct import BlockDct
from ray_diffusion.models.codecs.codec import Codec
from ray_diffusion.models.codecs.diffusers_vae import DiffusersVae
from ray_diffusion.models.codecs.identity import Identity

FILE, WEIGHTS = "codec.json", "codec.safetensors"

CODECS: dict[str, Callable[..., Codec]] = {
    "identity": Identity,
    "block-dct": BlockDct,
    "autoencoder": Autoencoder,
    "diffusers": DiffusersVae,
}


def kind_of(codec: Codec) -> str:
    """The codec's key in ``CODECS``."""
    return next(kind for kind, made in CODECS.items() if made is type(codec))


def fingerprint(codec: Codec) -> str:
    """``KIND-DIGEST``: another one for another codec, and the same wherever it is.

    Args:
        codec: On any device; of its options and its weights in float32.
    """
    said = json.dumps([kind_of(codec), dict(codec.options)], sort_keys=True)
    found = hashlib.sha256(said.encode())
    for name, value in sorted(codec.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().cpu().float().numpy().tobytes())
    return f"{kind_of(codec)}-{found.hexdigest()[:12]}"


def save(codec: Codec, directory: Path) -> str:
    """Write a codec.

    Args:
        codec: Which.
        directory: Where to; exists.

    Returns:
        Its fingerprint.
    """
    said = {
        "kind": kind_of(codec),
        "fingerprint": fingerprint(codec),
        "options": dict(codec.options),
    }
    (directory / FILE).write_text(json.dumps(said, indent=1))
    weights = {
        name: value.detach().cpu().contiguous() for name, value in codec.state_dict().items()
    }
    if weights:
        save_file(weights, directory / WEIGHTS)
    return str(said["fingerprint"])


def load(directory: Path, name: str | None = None) -> Codec:
    """Read a codec.

    Args:
        directory: Where ``save`` has written it, or a copy of that; on this machine.
        name: Where it is from, for messages; None: the directory.

    Returns:
        The codec, on the CPU, in evaluation mode and without gradients.

    Raises:
        DataError: If there is none, it is of a kind that this program does not know, or its
            weights are not those it was written with.
        UsageError: If it needs a package that is not installed.
    """
    where = name or str(directory)
    try:
        said = json.loads((directory / FILE).read_bytes())
        if said["kind"] not in CODECS:
            raise ValueError(f"its kind is {said['kind']!r}, not one of {', '.join(CODECS)}")
        made, written = CODECS[said["kind"]], said["fingerprint"]
        with torch.random.fork_rng(devices=[]):
            codec = made(**said["options"])
    except FileNotFoundError as error:
        raise DataError(f"{where} holds no codec: it has no {FILE}") from error
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{where}/{FILE} is no codec of this program: {reason}") from error
    if (directory / WEIGHTS).exists():
        try:
            codec.load_state_dict(load_file(directory / WEIGHTS))
        except (RuntimeError, SafetensorError) as error:
            raise DataError(f"{where}/{WEIGHTS} has no weights for the codec of {FILE}") from error
    if (found := fingerprint(codec)) != written:
        raise DataError(
            f"{where} holds codec {found}, its {FILE} says {written}: the weights were changed"
        )
    return codec.eval().requires_grad_(False)
