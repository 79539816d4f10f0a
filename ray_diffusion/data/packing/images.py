"""What one image is, and what it becomes as an example of a dataset.

Images come from anywhere, so nothing here trusts them: only the formats of ``FORMATS`` are tried,
the header is asked for the size before a pixel is decoded, and whatever a decoder says becomes the
reason for a refusal. Colour profiles are ignored: samples are taken as sRGB as they stand.
"""

import hashlib
import io
import math
import warnings
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from ray_diffusion.data.packing.recipe import SMALL, Recipe

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
EXTENSIONS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}  # what a dataset may hold
UNREAD = "cannot be read"
UNREADABLE = (UNREAD, "cannot be decoded")
REASONS = (*UNREADABLE, "too many pixels", "too small", "too oblong", "constant")

_GREY = ("1", "L", "LA", "La")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "area": Image.Resampling.BOX,
    "bicubic": Image.Resampling.BICUBIC,
}
_OPTIONS = {  # of PIL's encoders; colour is as sharp as brightness in a JPEG
    "png": {"compress_level": 6},
    "jpeg": {"subsampling": 0},
    "webp": {"method": 4},
}


class Finding(NamedTuple):
    """What one image is; plain values that JSON can hold.

    Attributes:
        reason: Why it cannot be used, one of ``REASONS``; None if it can.
        detail: The reason in the decoder's or the storage's words.
        width: Of the upright image, pixels.
        height: Of the upright image, pixels.
        colour: Whether its pixel format has colours; a colour image that shows only greys has.
        sha256: Of the upright pixels as L or RGB, hexadecimal.
        dhash: Difference hash of the upright pixels, 64 bits (``difference_hash``).
        exact: Whether a dataset can hold its own bytes: PNG, JPEG or WebP, one frame, upright,
            and exactly L or RGB.
    """

    reason: str | None
    detail: str = ""
    width: int = 0
    height: int = 0
    colour: bool = False
    sha256: str = ""
    dhash: int = 0
    exact: bool = False


class Rendered(NamedTuple):
    """One example's image.

    Attributes:
        content: The encoded image.
        extension: Its file name's, without the dot.
        pixels: What decoding ``content`` gives, uint8, shape ``(H, W)`` or ``(H, W, 3)``.
    """

    content: bytes
    extension: str
    pixels: NDArray[np.uint8]


def inspect_image(content: bytes, recipe: Recipe) -> Finding:
    """What an image is, or why it cannot be used; costs about one decoding.

    Args:
        content: The encoded image.
        recipe: Its limits on size, aspect and number of pixels.
    """
    try:
        image, exact = _decode(content, recipe.max_pixels)
    except Image.DecompressionBombError as error:
        return Finding("too many pixels", str(error))
    except UnidentifiedImageError:
        return Finding("cannot be decoded", f"not a {', '.join(FORMATS)} file, or a damaged one")
    except Exception as error:  # decoders raise errors of any class
        return Finding("cannot be decoded", str(error) or type(error).__name__)
    width, height = image.size
    short, long = sorted(image.size)
    found = Finding(None, "", width, height, image.mode == "RGB")
    if short < recipe.min_side:
        return found._replace(reason="too small", detail=f"{width}x{height} pixels")
    if long > recipe.max_aspect * short:
        return found._replace(reason="too oblong", detail=f"{width}x{height} pixels")
    if image.getcolors(1):  # gives up at the second colour
        return found._replace(reason="constant")
    sha256 = hashlib.sha256(f"{image.mode} {width}x{height} ".encode())
    sha256.update(image.tobytes())
    return found._replace(sha256=sha256.hexdigest(), dhash=difference_hash(image), exact=exact)


def difference_hash(image: Image.Image) -> int:
    """A hash of what an image looks like: similar images differ in few of its 64 bits.

    Each bit says whether a cell of the image, shrunk to 9 columns and 8 rows of greys, is darker
    than its right neighbour (Krawetz 2013, "Kind of like that"); the top left bit is the highest.
    """
    cells = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX))
    return int.from_bytes(np.packbits(cells[:, :-1] < cells[:, 1:]).tobytes())


def extent(findings: Iterable[Finding]) -> str:
    """The sizes of images in words, the one with fewest pixels first: ``20x30 to 640x480``."""
    sizes = {(finding.width, finding.height) for finding in findings}
    ends = [end(sizes, key=lambda size: (math.prod(size), size)) for end in (min, max)]
    return " to ".join(dict.fromkeys(f"{width}x{height}" for width, height in ends))


def encoding_at(image_size: int, recipe: Recipe) -> str:
    """The format that a recipe gives images of a size: png, jpeg, webp or keep."""
    return recipe.encoding or ("png" if image_size <= SMALL else "jpeg")


def render(
    content: bytes, finding: Finding, recipe: Recipe, image_size: int, channels: int
) -> Rendered:
    """The example that an image becomes.

    Args:
        content: The encoded image.
        finding: What ``inspect_image`` said of it; its ``reason`` is None.
        recipe: How it becomes a square, which filter resizes it, how it is encoded.
        image_size: Side of the result, pixels.
        channels: 1 for grey, 3 for colour.

    Returns:
        A square image without metadata; the image's own bytes where the recipe keeps them.
    """
    encoding = encoding_at(image_size, recipe)
    if encoding == "keep":
        size = (finding.width, finding.height)
        fits = size == (image_size, image_size) and finding.colour == (channels == 3)
        if finding.exact and fits:
            return _rendered(content)
        encoding = "png"
    image, _ = _decode(content, recipe.max_pixels)
    square = _square(image.convert("L" if channels == 1 else "RGB"), image_size, recipe)
    encoded = io.BytesIO()
    square.save(encoded, encoding, quality=recipe.quality, **_OPTIONS[encoding])
    return _rendered(encoded.getvalue())


def _rendered(content: bytes) -> Rendered:
    with warnings.catch_warnings(action="ignore"):
        image = Image.open(io.BytesIO(content), formats=tuple(EXTENSIONS))
        return Rendered(content, EXTENSIONS[str(image.format)], np.asarray(image))


def _square(image: Image.Image, side: int, recipe: Recipe) -> Image.Image:
    resample = _FILTERS[recipe.resample]
    if recipe.fit == "stretch":
        return image.resize((side, side), resample)
    if recipe.fit == "pad":
        scale = side / max(image.size)
        width, height = (max(1, round(length * scale)) for length in image.size)
        square = Image.new(image.mode, (side, side))
        inside = image.resize((width, height), resample)
        square.paste(inside, ((side - width) // 2, (side - height) // 2))
        return square
    shorter = min(image.size)
    # Whole pixels, so that an image that is only cropped stays sharp.
    left, top = (image.width - shorter) // 2, (image.height - shorter) // 2
    return image.resize((side, side), resample, (left, top, left + shorter, top + shorter))


def _decode(content: bytes, max_pixels: int) -> tuple[Image.Image, bool]:
    """The first frame, upright and without metadata as L or RGB; and ``Finding.exact``."""
    # Decoders warn of what they mend. The filters are the process's: not for several threads.
    with warnings.catch_warnings(action="ignore"):
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels")
        if image.format == "PNG":
            image.verify()  # decoding alone skips the checksums
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        image.load()
        turn = _UPRIGHT.get(_orientation(image))
        plain = _plain(image)
        exact = (
            image.format in EXTENSIONS
            and turn is None
            and image.mode == plain.mode
            and not image.has_transparency_data
            and not getattr(image, "is_animated", False)
        )
    if turn is not None:
        plain = plain.transpose(turn)
    plain.info.clear()  # some encoders would write it into the file
    return plain, exact


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 where there is none or the EXIF is damaged."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # parsers raise errors of any class, and the pixels are whole
        return 1


def _plain(image: Image.Image) -> Image.Image:
    """As L or RGB: transparency over white, the high byte of 16-bit greys."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        if values.dtype.kind == "f" or values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("samples of 32 bits: nothing says which of them is white")
        return Image.fromarray((values >> 8).astype(np.uint8))
    mode = "L" if image.mode in _GREY else "RGB"
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image if image.mode == mode else image.convert(mode)
