"""Codecs as users name them, and what encodes the images of a shard."""

import math
import re
import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ray_diffusion.config.schema import Data
from ray_diffusion.data.manifest import Manifest
from ray_diffusion.data.training_set import images_of, open_split
from ray_diffusion.errors import UsageError
from ray_diffusion.models.codecs import stored
from ray_diffusion.models.codecs.block_dct import BlockDct
from ray_diffusion.models.codecs.codec import Codec
from ray_diffusion.models.codecs.diffusers_vae import DiffusersVae
from ray_diffusion.models.codecs.identity import Identity
from ray_diffusion.models.pixels import decode, encode
from ray_diffusion.models.similarity import psnr
from ray_diffusion.models.threads import one_thread
from ray_diffusion.pipeline import load_codec
from ray_diffusion.storage import Directory
from ray_diffusion.tracking.registry import at_hand
from ray_diffusion.training.latents import fetch_codec

BLOCK_DCT, DIFFUSERS, IDENTITY = r"block-dct:(\d+),(\d+)", "diffusers:", "identity"
OTHERS = "other codecs are identity, block-dct:FACTOR,COEFFICIENTS, diffusers:DIRECTORY_OR_ID"
MOST_MEASURED, MEASURED_AT_ONCE = 128, 16


def codec_of(name: str, image_channels: int) -> Codec:
    """The codec that a user asks for.

    Args:
        name: ``identity``, ``block-dct:FACTOR,COEFFICIENTS``, ``diffusers:DIRECTORY_OR_ID``, or an
            autoencoder: a run, a checkpoint, an exported model, ``mlflow:RUN_ID``,
            ``models:/NAME@ALIAS``.
        image_channels: Channels of the images.

    Returns:
        The codec, on the CPU.

    Raises:
        UsageError: If there is none, or it is one of other images.
        StorageError: If it is damaged.
    """
    codec = _codec(name, image_channels).eval().requires_grad_(False)
    if codec.image_channels != image_channels:
        raise UsageError(
            f"codec: {name} is of images with {codec.image_channels} channels, the source's have "
            f"{image_channels}"
        )
    return codec


def _codec(name: str, image_channels: int) -> Codec:
    if name == IDENTITY:
        return Identity(image_channels)
    if name.startswith(DIFFUSERS):
        return DiffusersVae.pretrained(name.removeprefix(DIFFUSERS))
    if name.startswith("block-dct"):
        numbers = re.fullmatch(BLOCK_DCT, name)
        if numbers is None:
            raise UsageError(
                f"codec: must be block-dct:FACTOR,COEFFICIENTS, such as block-dct:4,6, got {name}"
            )
        try:
            return BlockDct(image_channels, int(numbers[1]), int(numbers[2]))
        except ValueError as error:
            raise UsageError(f"codec: {error}") from error
    try:
        with at_hand(name) as (_, place):
            return load_codec(place)
    except UsageError as error:
        raise UsageError(f"codec: {error}; {OTHERS}") from error


class ShardEncoder:
    """Encodes images wherever a task runs; see ``data.packing.latent_shard.Encoder``.

    Args:
        codec: The codec. It does not travel: tasks load it from the dataset to be.
        out: Where that will be.
    """

    def __init__(self, codec: Codec, out: Directory) -> None:
        self._codec, self._dataset_url = codec, out.url
        self.fingerprint = stored.fingerprint(codec)
        self.channels, self.factor = codec.latent_channels, codec.factor
        self.moments = 2 if codec.stochastic else 1

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_codec"}

    def publish(self) -> None:
        """Put the codec into the dataset to be, unless it is there and whole."""
        out = Directory(self._dataset_url)
        with tempfile.TemporaryDirectory() as scratch:
            if out.fetch(self.fingerprint, Path(scratch, "there")) is None:
                return
            (made := Path(scratch, "made")).mkdir()
            stored.save(self._codec, made)
            out.publish(made, self.fingerprint)

    def __call__(self, images: Tensor) -> Tensor:
        """Encode.

        Args:
            images: uint8, shape ``(B, C, H, W)``.

        Returns:
            float32, shape ``(B, moments, channels, h, w)``, on the CPU.
        """
        codec = _at_hand(self._dataset_url, self.fingerprint)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        with torch.no_grad(), one_thread():
            found = codec.to(device).encode(encode(images.to(device)))
        moments = [found.mean] if found.logvar is None else [found.mean, found.logvar]
        return torch.stack(moments, 1).float().cpu()


@cache
def _at_hand(dataset_url: str, fingerprint: str) -> Codec:
    """Fetched once by each process, however many shards it encodes."""
    return fetch_codec(dataset_url, fingerprint)


def reconstruction_psnr(codec: Codec, latents_url: str, manifest: Manifest) -> float:
    """How near the images of a dataset of latents come back from these.

    Args:
        codec: Its codec.
        latents_url: Where it is.
        manifest: What it holds.

    Returns:
        Mean peak signal-to-noise ratio, dB, of some validation images (or training images, if it
        has no others); infinite if all of them come back to the bit.

    Raises:
        DataError: If the images are there no more.
        StorageError: If they cannot be read.
    """
    data = images_of(Data(dataset_url=latents_url, image_size=manifest.image_size))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    codec = codec.to(device)
    found, exact, split = [], True, "val" if manifest.examples("val") else "train"
    with closing(open_split(data, split)) as images, torch.no_grad():
        chosen = images.spread(MOST_MEASURED)
        for start in range(0, len(chosen), MEASURED_AT_ONCE):
            pixels = images.at(chosen[start : start + MEASURED_AT_ONCE]).images.to(device)
            became = codec.decode(codec.encode(encode(pixels)).mean)
            exact = exact and decode(became).equal(pixels)
            found.append(psnr(became.clamp(-1, 1), encode(pixels)))
    return math.inf if exact else float(torch.cat(found).mean())
