import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin
from specimens import ORIENTATION, PLAIN, PNG, encoded, noise, rendered, specimen

from ray_diffusion.data.packing.images import inspect_image, render
from ray_diffusion.data.packing.recipe import Recipe

EXACT = {
    "png": encoded(noise(8, 8, 3)),
    "grey png": encoded(noise(8, 8)),
    "jpeg": encoded(noise(8, 8, 3), "JPEG"),
    "webp": encoded(noise(8, 8, 3), "WEBP"),
}
INEXACT = {
    "bmp": encoded(noise(8, 8, 3), "BMP"),
    "turned": encoded(noise(8, 8, 3), "JPEG", exif=b"Exif\0\0" + b"MM\0*\0\0\0\x08\0\x01"
                      + struct.pack(">HHIHHI", ORIENTATION, 3, 1, 6, 0, 0)),
    "transparent": encoded(noise(8, 8, 4)),
    "transparent colour": encoded(noise(8, 8, 3), transparency=(1, 2, 3)),
    "palette": encoded(Image.fromarray(noise(8, 8), "P")),
    "16 bits": encoded(noise(8, 8).astype(np.uint16) * 256),
    "inks": encoded(Image.fromarray(noise(8, 8, 4), "CMYK"), "JPEG"),
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT | INEXACT)
def test_own_bytes_are_kept_only_where_nothing_has_to_be_changed(name: str):
    content, keep = (EXACT | INEXACT)[name], Recipe(encoding="keep")
    found = inspect_image(content, keep)
    channels = 3 if found.colour else 1
    assert found.exact == (name in EXACT)
    fitting = render(content, found, keep, 8, channels)
    assert (fitting.content == content) == (name in EXACT)
    for size, depth in ((9, channels), (8, 4 - channels)):
        changed = render(content, found, keep, size, depth)
        assert changed.extension == "png"
        assert changed.pixels.shape == ((size, size, 3) if depth == 3 else (size, size))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("encoding", ["png", "jpeg", "webp", "keep"])
def test_pixels_are_what_a_reader_will_decode(encoding: str, channels: int):
    for content in (specimen("PNG"), specimen("JPEG"), encoded(noise(16, 16), "JPEG")):
        example = rendered(content, Recipe(encoding=encoding), 16, channels)
        assert (np.asarray(Image.open(io.BytesIO(example.content))) == example.pixels).all()
        assert example.pixels.dtype == np.uint8
        if (encoding, channels) != ("webp", 1):
            assert example.pixels.shape == ((16, 16, 3) if channels == 3 else (16, 16))


def test_png_is_the_default_for_small_images_and_jpeg_for_others():
    examples = [rendered(specimen("PNG"), PLAIN, size, 3) for size in (64, 65)]
    assert [example.extension for example in examples] == ["png", "jpg"]


def test_a_jpeg_keeps_colour_as_sharp_as_brightness():
    example = rendered(specimen("PNG"), Recipe(encoding="jpeg"), 16, 3)
    image = Image.open(io.BytesIO(example.content))
    assert [(across, down) for _, across, down, _ in image.layer] == [(1, 1)] * 3


@pytest.mark.parametrize("encoding", ["jpeg", "webp"])
def test_quality_brings_an_image_nearer_to_its_pixels(encoding: str):
    errors = []
    for quality in (10, 60, 100):
        example = rendered(
            encoded(noise(16, 16, 3)), Recipe(encoding=encoding, quality=quality), 16, 3
        )
        errors.append(np.abs(example.pixels - noise(16, 16, 3).astype(float)).mean())
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("encoding", ["png", "jpeg", "webp"])
def test_metadata_stays_behind(encoding: str):
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x010E] = 6, "secret"
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "secret")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    common = {"exif": exif, "icc_profile": profile}
    for content in (
        encoded(noise(16, 16, 3), pnginfo=text, dpi=(7, 7), **common),
        encoded(noise(16, 16, 3), "JPEG", comment="secret", **common),
        encoded(noise(16, 16, 3), "TIFF", description="secret", **common),
    ):
        assert inspect_image(content, PLAIN).reason is None
        image = Image.open(io.BytesIO(rendered(content, Recipe(encoding=encoding), 16, 3).content))
        image.load()
        assert not image.getexif()
        assert not {"exif", "icc_profile", "comment", "dpi"} & image.info.keys()


def test_a_crop_without_scaling_is_the_middle_of_the_image():
    for shape in ((16, 21, 3), (21, 16, 3)):
        pixels = noise(*shape)
        top, left = (shape[0] - 16) // 2, (shape[1] - 16) // 2
        got = rendered(encoded(pixels), PNG, 16, 3).pixels
        assert (got == pixels[top : top + 16, left : left + 16]).all()


def test_area_gives_means_of_blocks_and_repeats_pixels():
    area = Recipe(encoding="png", resample="area")
    pixels = noise(16, 16)
    means = pixels.reshape(8, 2, 8, 2).mean(axis=(1, 3))
    got = rendered(encoded(pixels), area, 8, 1).pixels
    # Each direction rounds.
    assert np.abs(got - means).max() <= 1
    assert (rendered(encoded(pixels), area, 32, 1).pixels == pixels.repeat(2, 0).repeat(2, 1)).all()


def test_a_crop_takes_a_middle_square_of_the_shorter_side():
    pixels = noise(8, 20)
    got = rendered(encoded(pixels), Recipe(encoding="png", resample="area"), 16, 1).pixels
    assert (got == pixels[:, 6:14].repeat(2, 0).repeat(2, 1)).all()


def test_padding_is_black_and_even():
    pixels = noise(10, 16, 3) // 2 + 100
    recipe = Recipe(encoding="png", fit="pad", resample="area")
    got = rendered(encoded(pixels), recipe, 32, 3).pixels
    assert (got[6:26] == pixels.repeat(2, 0).repeat(2, 1)).all()
    assert not got[:6].any()
    assert not got[26:].any()


def test_padding_leaves_a_line_of_the_most_oblong_image():
    recipe = Recipe(encoding="png", fit="pad", max_aspect=1000)
    got = rendered(encoded(noise(900, 1) | 1), recipe, 8, 1).pixels
    assert np.flatnonzero(got.any(axis=0)).tolist() == [3]


def test_stretching_uses_the_whole_image():
    pixels = noise(8, 16)
    recipe = Recipe(encoding="png", fit="stretch", resample="area")
    got = rendered(encoded(pixels), recipe, 16, 1).pixels
    assert (got == pixels.repeat(2, 0)).all()


@pytest.mark.parametrize("resample", ["lanczos", "bicubic"])
def test_sharp_filters_reproduce_a_ramp(resample: str):
    ramp = np.add.outer(np.arange(64), 2 * np.arange(64)).astype(np.uint8)
    got = rendered(encoded(ramp), Recipe(encoding="png", resample=resample), 32, 1).pixels
    exact = np.add.outer(2 * np.arange(32) + 0.5, 4 * np.arange(32) + 1)
    assert np.abs(got - exact)[4:-4, 4:-4].max() <= 1


def test_filters_differ():
    small = [rendered(encoded(noise(32, 32)), Recipe(resample=name), 12, 1).content
             for name in ("lanczos", "area", "bicubic")]  # fmt: skip
    assert len(set(small)) == 3


def test_grey_is_weighed_as_the_eye_does():
    primaries = np.zeros((8, 8, 3), np.uint8)
    primaries[:4, :4, 0] = primaries[:4, 4:, 1] = primaries[4:, :4, 2] = 255
    got = rendered(encoded(primaries), PNG, 8, 1).pixels
    assert got[::4, ::4].tolist() == [[76, 150], [29, 0]]  # ITU-R BT.601
    grey = noise(8, 8)
    assert (rendered(encoded(grey), PNG, 8, 3).pixels == grey[..., None]).all()
