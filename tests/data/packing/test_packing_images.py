import json
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from specimens import ORIENTATION, PLAIN, PNG, Pixels, encoded, noise, rendered, specimen

from ray_diffusion.data.packing.images import (
    FORMATS,
    REASONS,
    Finding,
    difference_hash,
    extent,
    inspect_image,
)
from ray_diffusion.data.packing.recipe import Recipe


def upright(content: bytes, channels: int = 3) -> Pixels:
    """The pixels that a square image is taken to have."""
    size = inspect_image(content, PNG).width
    return rendered(content, PNG, size, channels).pixels


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file that claims a size, of RGB."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in ((b"IHDR", header), *chunks, (b"IEND", b""))
    )


UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {  # from the meaning in the EXIF standard
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}
LOSSLESS = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}


@pytest.mark.parametrize("form", LOSSLESS)
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_every_exif_orientation_is_turned_upright(orientation: int, form: str):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    square, oblong = noise(9, 9, 3), noise(6, 9, 3)
    turn = UPRIGHT[orientation]
    content = encoded(square, form, exif=exif, **LOSSLESS[form])
    assert (upright(content) == turn(square)).all()
    found = inspect_image(encoded(oblong, form, exif=exif, **LOSSLESS[form]), PLAIN)
    assert (found.height, found.width) == turn(oblong).shape[:2]
    straight = inspect_image(encoded(np.ascontiguousarray(turn(oblong))), PLAIN)
    assert (found.sha256, found.dhash) == (straight.sha256, straight.dhash)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\xff", b"Exif\0\0II*"])
def test_damaged_exif_is_no_reason_to_leave_an_image_out(exif: bytes, form: str):
    assert inspect_image(encoded(noise(9, 9, 3), form, exif=exif), PLAIN).reason is None


@pytest.mark.parametrize("side", [9_500, 60_000, 2**31 - 1])
def test_an_image_that_claims_too_many_pixels_is_refused_by_its_header(side: int):
    found = inspect_image(png(side, side), PLAIN)  # it has none, which a decoder would find out
    assert found.reason == "too many pixels"
    assert inspect_image(png(9, 9), PLAIN).reason == "cannot be decoded"


def test_an_image_may_have_just_the_largest_number_of_pixels():
    content = encoded(noise(20, 30, 3))
    assert inspect_image(content, Recipe(max_pixels=600)).reason is None
    assert inspect_image(content, Recipe(max_pixels=599)).reason == "too many pixels"


@pytest.mark.parametrize("form", FORMATS)
def test_each_format_is_read(form: str):
    found = inspect_image(specimen(form), PLAIN)
    assert (found.reason, found.width, found.height, found.colour) == (None, 32, 24, True)


@pytest.mark.parametrize("form", ["TGA", "PCX", "ICO", "PDF", "SGI"])
def test_no_other_format_is_even_tried(form: str):
    assert inspect_image(specimen(form), PLAIN).reason == "cannot be decoded"


@pytest.mark.parametrize("form", FORMATS)
def test_a_truncated_file_is_refused_or_lacks_no_pixel(
    form: str, capfd: pytest.CaptureFixture[str]
):
    content = specimen(form)
    whole = inspect_image(content, PLAIN)
    for length in range(len(content)):
        found = inspect_image(content[:length], PLAIN)
        assert found.reason == "cannot be decoded" or found.sha256 == whole.sha256
        assert found.reason is None or found.detail
    assert inspect_image(content[: len(content) // 2], PLAIN).reason == "cannot be decoded"
    assert capfd.readouterr() == ("", "")


@settings(max_examples=200)
@given(st.sampled_from(FORMATS), st.lists(st.tuples(st.integers(0), st.integers(1, 255))))
def test_damage_gives_an_image_or_a_reason(form: str, damage: list[tuple[int, int]]):
    content = bytearray(specimen(form))
    for position, bits in damage:
        content[position % len(content)] ^= bits
    found = inspect_image(bytes(content), PLAIN)
    assert found.reason in (None, *REASONS)
    if found.reason is None:
        assert rendered(bytes(content), PLAIN, 8, 3).pixels.shape == (8, 8, 3)


def test_a_png_with_a_flipped_bit_is_refused_or_the_same():
    content = specimen("PNG")
    whole = inspect_image(content, PLAIN)
    for i in range(0, len(content), 3):
        damaged = content[:i] + bytes([content[i] ^ 0x10]) + content[i + 1 :]
        found = inspect_image(damaged, PLAIN)
        assert found.reason == "cannot be decoded" or found.sha256 == whole.sha256


def test_what_is_no_image_is_refused_in_the_same_words_each_time():
    found = [inspect_image(text, PLAIN) for text in (b"", b"hello\n" * 100, b"hello\n" * 101)]
    assert {finding.reason for finding in found} == {"cannot be decoded"}
    assert len({finding.detail for finding in found}) == 1


def over_white(colour: Pixels, alpha: Pixels) -> NDArray[np.float64]:
    alpha = alpha[..., None] / 255
    return colour * alpha + 255 * (1 - alpha)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_over_white(form: str):
    pixels = noise(16, 16, 4)
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    got = upright(encoded(pixels, form, **options))
    assert np.abs(got - over_white(pixels[..., :3], pixels[..., 3])).max() <= 1


def test_a_grey_image_with_transparency_stays_grey():
    pixels = noise(16, 16, 2)
    content = encoded(Image.fromarray(pixels, "LA"))
    assert not inspect_image(content, PLAIN).colour
    got = upright(content, channels=1)
    assert np.abs(got - over_white(pixels[..., :1], pixels[..., 1])[..., 0]).max() <= 1


def test_one_transparent_colour_becomes_white():
    grey, colours = noise(16, 16) // 64 * 64, noise(16, 16, 3) // 128 * 128
    got = upright(encoded(grey, transparency=64), channels=1)
    assert (got == np.where(grey == 64, 255, grey)).all()
    got = upright(encoded(colours, transparency=(0, 128, 0)))
    hole = (colours == (0, 128, 0)).all(axis=2, keepdims=True)
    assert hole.any()
    assert (got == np.where(hole, 255, colours)).all()


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_palettes_with_transparency_are_over_white(form: str):
    numbers = noise(16, 16) // 64
    image = Image.fromarray(numbers, "P")
    palette = np.array([[10, 20, 30], [200, 0, 0], [0, 200, 0], [1, 2, 3]], np.uint8)
    image.putpalette(palette.tobytes())
    got = upright(encoded(image, form, transparency=1))
    palette[1] = 255
    assert (got == palette[numbers]).all()


def test_sixteen_bits_of_grey_become_the_high_eight():
    wide = np.random.default_rng(0).integers(0, 2**16, (16, 16), np.uint16)
    wide[0, :2] = 0, 2**16 - 1
    portable = b"P5 16 16 65535\n" + wide.astype(">u2").tobytes()
    for content in (encoded(wide), encoded(wide, "TIFF"), portable):
        assert not inspect_image(content, PLAIN).colour
        assert (upright(content, channels=1) == wide // 256).all()


@pytest.mark.parametrize(
    "samples",
    [np.linspace(0, 1, 256, dtype=np.float32), np.arange(256) * 1000, np.arange(256) - 1],
)
def test_grey_without_a_known_white_is_refused(samples: NDArray[np.generic]):
    square = samples.reshape(16, 16).astype(np.float32 if samples.dtype.kind == "f" else np.int32)
    found = inspect_image(encoded(square, "TIFF"), PLAIN)
    assert found.reason == "cannot be decoded"
    assert "white" in found.detail


def test_bilevel_images_are_grey():
    bits = noise(16, 16) > 127
    content = encoded(Image.fromarray(bits))
    assert not inspect_image(content, PLAIN).colour
    assert (upright(content, channels=1) == bits * 255).all()


def test_inks_become_light():
    inks = noise(16, 16, 4)
    got = upright(encoded(Image.fromarray(inks, "CMYK"), "TIFF"))
    light = (255.0 - inks[..., :3]) * (255.0 - inks[..., 3:]) / 255
    assert np.abs(got - light).max() <= 1


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_stands_for_an_animation(form: str):
    frames = [Image.fromarray(noise(16, 16) // 128 * 255, "L").convert("RGB") for _ in range(2)]
    frames[1] = frames[1].point(lambda value: 255 - value)
    options = {"lossless": True} if form == "WEBP" else {}
    content = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert (upright(content) == np.asarray(frames[0])).all()
    assert not inspect_image(content, PLAIN).exact


@pytest.mark.parametrize(
    ("pixels", "recipe", "reason"),
    [
        (noise(30, 9, 3), Recipe(min_side=9, max_aspect=4), None),
        (noise(30, 9, 3), Recipe(min_side=10, max_aspect=4), "too small"),
        (noise(30, 10, 3), Recipe(), None),
        (noise(10, 31, 3), Recipe(), "too oblong"),
        (np.full((9, 9, 3), (1, 2, 3), np.uint8), Recipe(), "constant"),
        (np.full((9, 9), 7, np.uint8), Recipe(), "constant"),
        (np.eye(9, dtype=np.uint8), Recipe(), None),
    ],
)
def test_the_recipe_says_what_is_left_out(pixels: Pixels, recipe: Recipe, reason: str | None):
    found = inspect_image(encoded(pixels), recipe)
    assert (found.height, found.width) == pixels.shape[:2]
    assert found.reason == reason


def test_the_digest_is_of_the_pixels_and_their_shape():
    pixels = noise(8, 8, 3)
    same = [encoded(pixels, form) for form in ("PNG", "BMP", "TIFF", "PPM")]
    same += [encoded(pixels, "WEBP", lossless=True), encoded(pixels, compress_level=0)]
    same += [encoded(np.dstack([pixels, np.full((8, 8), 255, np.uint8)]))]
    assert len({inspect_image(content, PLAIN).sha256 for content in same}) == 1
    grey = noise(4, 12)
    other = [grey, grey.reshape(6, 8), grey.reshape(8, 6), grey.reshape(4, 4, 3), pixels]
    assert len({inspect_image(encoded(array), PLAIN).sha256 for array in other}) == 5


def test_the_extent_of_images_is_from_fewest_to_most_pixels():
    sizes = [(8, 8), (6, 6), (9, 4), (2, 18), (12, 3), (640, 480), (320, 960), (480, 640)]
    found = [Finding(None, width=width, height=height) for width, height in sizes]
    assert extent(found) == extent(found[::-1]) == "2x18 to 640x480"
    assert extent(found[:1] * 2) == "8x8"


def test_a_finding_survives_json():
    found = inspect_image(specimen("PNG"), PLAIN)
    assert Finding(*json.loads(json.dumps(found))) == found


def test_the_difference_hash_says_where_an_image_gets_lighter_to_the_right():
    rising = np.tile(np.arange(9, dtype=np.uint8) * 20, (8, 1))
    assert difference_hash(Image.fromarray(rising)) == 2**64 - 1
    assert difference_hash(Image.fromarray(rising[:, ::-1])) == 0
    one = np.zeros((8, 9), np.uint8)
    one[2, 3] = 255  # lighter than column 2: bit 2 of row 2
    assert difference_hash(Image.fromarray(one)) == 1 << (63 - (2 * 8 + 2))
    assert difference_hash(Image.fromarray(one.repeat(5, 0).repeat(7, 1))) == 1 << 45
