"""Autoencoders of Hugging Face's diffusers, such as those of Stable Diffusion."""

import math
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any, Self

from torch import Tensor

from ray_diffusion.errors import UsageError
from ray_diffusion.models.codecs.codec import Codec, Posterior

CLASS = "AutoencoderKL"


def _autoencoder_kl() -> Any:
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise UsageError(
            "codec: an autoencoder of diffusers needs it: pip install 'ray-diffusion[diffusers]'"
        ) from error
    return AutoencoderKL


class DiffusersVae(Codec):
    """diffusers' ``AutoencoderKL``, its latents shifted and scaled as its config says.

    Latents are ``(z - shift_factor) scaling_factor``, as in diffusers' pipelines.

    Args:
        config: Of the ``AutoencoderKL``, as in its ``config.json``; what begins with ``_`` (where
            and by which version it was written) is left out. Weights are random.

    Raises:
        UsageError: If diffusers is not installed.
    """

    stochastic = True

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        plain = {key: value for key, value in config.items() if not key.startswith("_")}
        self.options = {"config": plain}
        self.vae = _autoencoder_kl().from_config(plain)
        filled = self.vae.config  # with diffusers' defaults
        self.image_channels = filled.in_channels
        self.latent_channels = filled.latent_channels
        self.factor = 2 ** (len(filled.block_out_channels) - 1)
        self._scaling, self._shift = filled.scaling_factor, filled.shift_factor or 0.0

    @classmethod
    def pretrained(cls, name: str) -> Self:
        """An autoencoder that somebody trained.

        Args:
            name: A directory that ``AutoencoderKL.save_pretrained`` has written (of a pipeline:
                its folder ``vae``), or the id of such a model on the Hugging Face Hub. A directory
                goes first. Weights are read from safetensors files alone.

        Returns:
            The codec, on the CPU, float32, in evaluation mode and without gradients.

        Raises:
            UsageError: If diffusers is not installed, there is no such directory or model, it is
                no ``AutoencoderKL``, or its weights are not all there.
        """
        library, path = _autoencoder_kl(), Path(name).expanduser()
        if not path.is_dir() and name.startswith(("/", ".", "~")):
            raise UsageError(f"codec: there is no directory {path}")
        where = str(path) if path.is_dir() else name
        try:
            config = library.load_config(where)
            if (found := config.get("_class_name")) != CLASS:
                raise UsageError(f"codec: {name} holds a model of class {found}, not {CLASS}")
            vae, loading = library.from_pretrained(
                where, use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True
            )
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            reason = shorten(str(error), 300, placeholder="...")
            raise UsageError(f"codec: diffusers finds no {CLASS} in {name}: {reason}") from error
        if missing := loading["missing_keys"]:  # diffusers leaves them random
            raise UsageError(f"codec: {name} has no weights for {', '.join(missing[:3])}")
        codec = cls(config)
        codec.vae.load_state_dict(vae.state_dict())
        return codec.eval().requires_grad_(False)

    def encode(self, x0: Tensor) -> Posterior:
        """See ``Codec``."""
        z = self.vae.encode(x0).latent_dist
        mean = (z.mean - self._shift) * self._scaling
        return Posterior(mean, z.logvar + 2 * math.log(self._scaling))

    def decode(self, latents: Tensor) -> Tensor:
        """See ``Codec``."""
        images: Tensor = self.vae.decode(latents / self._scaling + self._shift).sample
        return images
