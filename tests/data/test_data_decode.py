import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import tiny_dataset
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from tiny_dataset import CLASSES, PLENTY, SIDE, example, png

from ray_diffusion.data.decode import BadExample, decode
from ray_diffusion.data.manifest import Manifest
from ray_diffusion.data.reader import Dataset

COLOURS = np.arange(SIDE * SIDE * 3, dtype=np.uint8).reshape(SIDE, SIDE, 3) * 5
GREYS = COLOURS[:, :, 0]


def promising(channels: int = 1, classes: tuple[str, ...] = CLASSES) -> Manifest:
    return Manifest(SIDE, channels, classes, {}, {}, [], [], {}, {})


def encoded(image: Image.Image, format: str = "png", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def read(content: bytes, channels: int, name: str = "png") -> NDArray[np.uint8]:
    return decode({name: content}, promising(channels, ()))[0]


def problem(files: dict[str, bytes], channels: int = 1) -> str:
    with pytest.raises(BadExample) as error:
        decode(files, promising(channels))
    return str(error.value)


def test_grey_and_colour_images_are_read_as_they_are():
    assert read(png(GREYS), 1).tolist() == [GREYS.tolist()]
    assert read(png(COLOURS), 3).transpose(1, 2, 0).tolist() == COLOURS.tolist()


@pytest.mark.parametrize("name", ["png", "jpg", "jpeg", "webp"])
def test_the_content_says_the_format_not_the_name(name: str):
    lossless = encoded(Image.fromarray(COLOURS), "webp", lossless=True)
    assert read(lossless, 3, name).transpose(1, 2, 0).tolist() == COLOURS.tolist()
    assert read(encoded(Image.fromarray(COLOURS), "jpeg"), 3, name).shape == (3, SIDE, SIDE)


def shown(mode: str) -> Image.Image:
    """A picture of a mode; of what it shows in RGB Pillow's own conversion is the oracle."""
    if mode == "P":
        return Image.fromarray(COLOURS).quantize(7)
    return Image.fromarray(COLOURS).convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_what_colour_can_hold_is_read_in_colour(mode: str):
    image = shown(mode)
    found = read(encoded(image), 3).transpose(1, 2, 0)
    assert found.tolist() == np.asarray(image.convert("RGB")).tolist()


def test_a_palette_with_transparency_is_read_by_its_colours():
    image = shown("P")
    found = read(encoded(image, transparency=bytes([0, 128, 255])), 3).transpose(1, 2, 0)
    assert found.tolist() == np.asarray(image.convert("RGB")).tolist()


def test_ink_is_read_in_colour():
    image = encoded(shown("CMYK"), "jpeg", quality=100)
    white = Image.new("CMYK", (SIDE, SIDE), (0, 0, 0, 0))
    assert read(image, 3).shape == (3, SIDE, SIDE)
    assert read(encoded(white, "jpeg"), 3).min() == 255


@pytest.mark.parametrize(
    ("mode", "shape"),
    [
        ("P", "(4, 4, 4) of uint8"),  # its numbers are no shades of grey
        ("RGB", "(3, 4, 4) of uint8"),
        ("LA", "(2, 4, 4) of uint8"),
        ("1", "(1, 4, 4) of bool"),
    ],
)
def test_a_grey_dataset_takes_grey_images_alone(mode: str, shape: str):
    line = problem({"png": encoded(shown(mode)), "cls": b"0"})
    assert line == f"has shape {shape}, the manifest says (1, 4, 4) of uint8"


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_refused(channels: int):
    image = Image.fromarray(np.full((SIDE, SIDE), 40_000, np.uint16))
    line = problem({"png": encoded(image), "cls": b"0"}, channels)
    assert line == (f"has shape (1, 4, 4) of uint16, the manifest says ({channels}, 4, 4) of uint8")


@pytest.mark.parametrize("format", ["gif", "bmp", "tiff", "ppm"])
def test_other_formats_are_no_images(format: str):
    content = encoded(Image.fromarray(GREYS), format)
    assert problem({"png": content, "cls": b"0"}) == "cannot be decoded: not an image"


def test_the_first_known_extension_is_the_image():
    files = {"webp": png(COLOURS), "jpg": png(255 - GREYS), "png": png(GREYS), "cls": b"0"}
    assert decode(files, promising())[0].tolist() == [GREYS.tolist()]


@given(st.binary(max_size=60) | st.text("0123456789 -+.e", max_size=6).map(str.encode))
def test_a_label_is_digits_of_a_class(label: bytes):
    files = {"png": png(GREYS), "cls": label}
    said = label.strip()  # a line end behind it is common
    if said.isdigit() and int(said) < len(CLASSES) and len(said) < 20:
        assert decode(files, promising())[1] == int(said)
    else:
        assert problem(files) == f"has label {said[:40]!r}, the manifest says 0 to 2"


def test_a_label_of_thousands_of_digits_is_refused_in_one_short_line():
    line = problem({"png": png(GREYS), "cls": b"1" * 10_000})
    assert line == f"has label {b'1' * 40!r}, the manifest says 0 to 2"


def test_without_classes_no_label_is_looked_at():
    for label in ({}, {"cls": b"nonsense"}):
        assert decode({"png": png(GREYS)} | label, promising(classes=()))[1] == 0


@given(st.binary(max_size=200))
def test_any_bytes_are_an_image_or_a_bad_example(content: bytes):
    assert problem({"png": content, "cls": b"0"}).startswith("cannot be decoded: ")


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_damaged_image_is_read_or_refused_but_never_a_crash(at: int, flip: int):
    for content in (png(GREYS), encoded(Image.fromarray(GREYS), "jpeg")):
        i = at % len(content)
        damaged = content[:i] + bytes([content[i] ^ flip]) + content[i + 1 :]
        try:
            image, _ = decode({"png": damaged, "cls": b"0"}, promising())
        except BadExample:
            continue
        assert (image.shape, image.dtype) == ((1, SIDE, SIDE), np.uint8)


class Payload:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._path),)


def malicious(path: Path) -> dict[str, bytes]:
    """Files that webdataset's or numpy's or torch's usual decoders would run."""
    payload = pickle.dumps(Payload(path))
    array, saved = io.BytesIO(), io.BytesIO()
    np.save(array, np.array([Payload(path)], dtype=object), allow_pickle=True)
    torch.save(Payload(path), saved)
    return dict.fromkeys(("pyd", "pkl", "pickle"), payload) | {
        "npy": array.getvalue(),
        "npz": array.getvalue(),
        "pt": saved.getvalue(),
        "pth": saved.getvalue(),
    }


def test_nothing_else_in_an_example_is_executed(tmp_path: Path):
    made = tmp_path / "executed"
    files = malicious(made)
    pickle.loads(files["pkl"])  # it does what it says
    made.rmdir()
    tiny_dataset.write(str(tmp_path), [[files | example(7), example(8) | files]])
    with Dataset(str(tmp_path), "train", SIDE, PLENTY) as dataset:
        assert dataset.read(0, 2).images[:, 0, 0, 0].tolist() == [7, 8]
    for name in ("png", "cls"):
        assert problem(example(7) | {name: files["pkl"]})
    assert not made.exists()
