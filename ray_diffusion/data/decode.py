"""From the files of an example to its image and label. Nothing else in a shard is ever looked at.

Decoders are chosen by this module, not by the shard: an image is read by one of three formats of
Pillow, latents as plain numbers, a label as digits. A pickle or a module among the files stays
bytes.
"""

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ray_diffusion.data import latents
from ray_diffusion.data.manifest import Latents, Manifest
from ray_diffusion.errors import DataError

IMAGE_EXTENSIONS = ("png", "jpg", "jpeg", "webp")
FORMATS = ("PNG", "JPEG", "WEBP")
LABEL, CAPTION = "cls", "txt"
MOST_DIGITS = 20  # of a label; int() refuses thousands of them with an error of its own
SHOWN_IN_COLOUR = ("1", "L", "LA", "RGBA", "CMYK")  # that RGB can hold


Stored = NDArray[np.uint8] | NDArray[np.float16]  # an image, or the latents in its place


class BadExample(DataError):
    """One example of a whole shard cannot be used."""


def decode(files: Mapping[str, bytes], manifest: Manifest) -> tuple[Stored, int]:
    """Decode an example.

    Args:
        files: Content by extension.
        manifest: What the dataset promises of its examples.

    Returns:
        The image, uint8, shape ``(C, H, W)``, or its latents, float16, of shape
        ``Latents.shape``; and its label (0 in a dataset without labels).

    Raises:
        BadExample: If something is missing, damaged or not as promised.
    """
    said = manifest.latents
    content = _image(files, manifest) if said is None else _latents(files, said)
    return content, _label(files, len(manifest.classes))


def blank(manifest: Manifest) -> Stored:
    """What stands for an example that cannot be used: a black image, or latents of zeros."""
    if manifest.latents is not None:
        return np.zeros(manifest.latents.shape, np.float16)
    return np.zeros((manifest.channels, *[manifest.image_size] * 2), np.uint8)


def opened(files: Mapping[str, bytes]) -> Image.Image:
    """The image of an example, of whatever mode; palettes in colour.

    Args:
        files: Content by extension.

    Raises:
        BadExample: If there is none that can be decoded.
    """
    content = next((files[e] for e in IMAGE_EXTENSIONS if e in files), None)
    if content is None:
        raise BadExample(f"has no image ({', '.join(IMAGE_EXTENSIONS)})")
    try:
        image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
        image.load()
        # A palette's numbers are no shades of grey; RGB has no room for all that it may say.
        return image.convert("RGBA") if image.mode == "P" else image
    except Exception as error:  # decoders raise errors of any class
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else error
        raise BadExample(f"cannot be decoded: {reason}") from error


def pixels(image: Image.Image, channels: int) -> NDArray[np.uint8]:
    """The pixels of an image, shape ``(H, W)`` or ``(H, W, C)``.

    Args:
        image: As ``opened`` returns it.
        channels: 3 shows in colour whatever RGB can hold; else an image is as it is.
    """
    in_colour = channels == 3 and image.mode in SHOWN_IN_COLOUR
    return np.asarray(image.convert("RGB") if in_colour else image)


def _image(files: Mapping[str, bytes], manifest: Manifest) -> NDArray[np.uint8]:
    image = pixels(opened(files), manifest.channels)
    image = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    expected = (manifest.channels, *[manifest.image_size] * 2)
    if image.shape != expected or image.dtype != np.uint8:
        raise BadExample(
            f"has shape {image.shape} of {image.dtype}, the manifest says {expected} of uint8"
        )
    return image


def _latents(files: Mapping[str, bytes], said: Latents) -> NDArray[np.float16]:
    if latents.EXTENSION not in files:
        raise BadExample(f"has no latents ({latents.EXTENSION})")
    try:
        found = latents.from_npy(files[latents.EXTENSION], said.shape)
    except ValueError as error:
        raise BadExample(f"has latents that {error}") from error
    if not np.isfinite(found).all():
        raise BadExample("has latents that are not finite")
    return found


def _label(files: Mapping[str, bytes], classes: int) -> int:
    if not classes:
        return 0
    if LABEL not in files:
        raise BadExample(f"has no label ({LABEL})")
    label = files[LABEL].strip()
    if not (label.isdigit() and len(label) < MOST_DIGITS and int(label) < classes):
        raise BadExample(f"has label {label[:40]!r}, the manifest says 0 to {classes - 1}")
    return int(label)
