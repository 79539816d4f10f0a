import hashlib
import io
import json
import math
import pickle
import re
from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image

from ray_diffusion.data.packing.embedded import EMBEDDED, embedded
from ray_diffusion.data.packing.photos import PHOTOGRAPHS, Crop, crops
from ray_diffusion.data.packing.shapes import SHAPES, SIDE, draw
from ray_diffusion.errors import UsageError

every_source = pytest.mark.parametrize("name", EMBEDDED)


def decoded(png: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        return np.asarray(image)


# What holds for all of them


@every_source
def test_keys_are_unique_and_fit_a_tar(name: str):
    keys = [record.key for record in embedded(f"builtin:{name}", None).records]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch(rf"{name}-\d+", key) for key in keys)


@every_source
def test_the_first_images_are_the_same_whatever_the_number(name: str):
    source = embedded(f"builtin:{name}", None)
    for count in (1, 7, 500):
        assert embedded(f"builtin:{name}", count).records == source.records[:count]


@every_source
def test_an_image_is_found_again_elsewhere_from_plain_json(name: str):
    source = embedded(f"builtin:{name}", 20)
    load = pickle.loads(pickle.dumps(source.load))
    for record in source.records:
        sent = record._replace(at=json.loads(json.dumps(record.at)))
        assert sent.at == record.at
        assert load(sent) == source.load(record)


@every_source
def test_each_source_knows_its_name_classes_and_size(name: str):
    source = embedded(f"builtin:{name}", 60)
    assert source.name == f"builtin:{name}"
    assert {record.label for record in source.records} == set(range(len(source.classes)))
    assert source.image_size == {"digits": 8, "shapes": 32, "photos": 32}[name]
    sides = [decoded(source.load(record)).shape[:2] for record in source.records]
    assert all(height == width >= source.image_size for height, width in sides)


def test_how_many_there_are_unless_told():
    counts = {name: len(embedded(f"builtin:{name}", None).records) for name in EMBEDDED}
    assert counts == {"digits": 1797, "shapes": 8192, "photos": 4096}


@pytest.mark.parametrize(
    ("location", "count", "message"),
    [
        ("builtin:shaps", None, "no built-in dataset 'shaps'; did you mean 'builtin:shapes'?"),
        ("builtin:?", None, "no built-in dataset '?'; there is digits, shapes, photos"),
        ("builtin:digits", 1798, "num_examples: builtin:digits has 1797 images, not 1798"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(location: str, count: int | None, message: str):
    with pytest.raises(UsageError) as error:
        embedded(location, count)
    assert str(error.value) == message


# Digits


def test_a_fifth_of_each_digit_is_held_out_and_none_moves_when_fewer_are_packed():
    records = embedded("builtin:digits", None).records
    held_out = Counter(record.label for record in records if record.split == "val")
    for label, count in Counter(record.label for record in records).items():
        assert abs(held_out[label] - count / 5) <= 0.5
    assert embedded("builtin:digits", 500).records == records[:500]


def test_digits_are_scikit_learns_from_black_to_white():
    source, data = embedded("builtin:digits", None), load_digits()
    images = np.stack([decoded(source.load(record)) for record in source.records])
    assert images.dtype == np.uint8
    assert [record.label for record in source.records] == data.target.tolist()
    assert [source.classes[i] for i in data.target[:10]] == list("0123456789")
    assert np.abs(images / 255 - data.images / 16).max() <= 0.5 / 255


# Shapes, measured in the images. An image's mean over the channels is one constant on the shape,
# another on the ground, and mixes them where a pixel is partly covered.


class Figure(NamedTuple):
    """A shape of radius 1."""

    area: float
    moment: float  # polar, about the centre
    perimeter: float


def _figures() -> dict[str, Figure]:
    inner = math.cos(math.radians(72)) / math.cos(math.radians(36))  # a pentagram's inner corners
    cos36, sin36 = math.cos(math.radians(36)), math.sin(math.radians(36))
    tenth = inner * sin36 / 2  # of a pentagram: the triangle of centre, tip and inner corner
    edge = math.sqrt(1 + inner**2 - 2 * inner * cos36)
    bar, width = 1.9, 0.6
    return {
        "disc": Figure(math.pi, math.pi / 2, 2 * math.pi),
        "ring": Figure(math.pi * (1 - 0.5**2), math.pi / 2 * (1 - 0.5**4), 3 * math.pi),
        "triangle": Figure(math.sqrt(27) / 4, math.sqrt(27) / 16, math.sqrt(27)),
        "square": Figure(2, 2 / 3, 4 * math.sqrt(2)),
        "cross": Figure(
            2 * bar * width - width**2,
            2 * bar * width * (bar**2 + width**2) / 12 - width**4 / 6,
            4 * bar,
        ),
        "star": Figure(10 * tenth, 10 * tenth * (1 + inner**2 + inner * cos36) / 6, 10 * edge),
    }


FIGURES = _figures()


def numbers(name: str) -> list[int]:
    """The first 20 images that are said to show a shape."""
    source = embedded("builtin:shapes", 20 * len(SHAPES))
    return [record.at for record in source.records if source.classes[record.label] == name]


def measured(number: int, side: int = SIDE) -> tuple[NDArray[np.float64], float]:
    """How much of each pixel the shape covers, and its lightness relative to the ground's."""
    blocks = draw(number).reshape(side, SIDE // side, side, SIDE // side, 3)
    relative = blocks.mean(axis=(1, 3, 4)) / 255
    relative -= relative[0, 0]
    contrast = float(relative.flat[np.abs(relative).argmax()])
    cover = relative / contrast
    return np.where(np.abs(cover) < 0.02, 0, cover), contrast


def roundness(cover: NDArray[np.float64]) -> float:
    """Polar moment over squared area: a number that only the form decides."""
    y, x = np.indices(cover.shape)
    area = cover.sum()
    x, y = x - (cover * x).sum() / area, y - (cover * y).sum() / area
    return float((cover * (x**2 + y**2)).sum() / area**2)


shape = pytest.mark.parametrize("name", FIGURES)


@shape
@pytest.mark.parametrize(("side", "tolerance"), [(128, 0.01), (32, 0.02)])
def test_an_image_has_the_form_of_its_class_also_at_32_pixels(
    name: str, side: int, tolerance: float
):
    figure = FIGURES[name]
    form = figure.moment / figure.area**2
    for number in numbers(name):
        cover, _ = measured(number, side)
        assert roundness(cover) == pytest.approx(form, rel=tolerance)


@shape
def test_shapes_are_neither_tiny_nor_cut_off(name: str):
    radii = []
    for number in numbers(name):
        cover, _ = measured(number)
        border = np.concatenate([cover[0], cover[-1], cover[:, 0], cover[:, -1]])
        assert not border.any()
        radii.append(math.sqrt(cover.sum() / FIGURES[name].area) / SIDE)
    assert 0.235 < min(radii) < 0.29
    assert 0.37 < max(radii) < 0.425


@shape
def test_edges_are_smooth_over_one_pixel(name: str):
    for number in numbers(name):
        cover, _ = measured(number)
        figure = FIGURES[name]
        perimeter = figure.perimeter * math.sqrt(cover.sum() / figure.area)
        partial = np.count_nonzero((cover > 0.02) & (cover < 0.98))
        assert partial == pytest.approx(perimeter, rel=0.2)


@shape
def test_a_shape_is_much_lighter_or_darker_than_its_ground(name: str):
    contrasts = np.array([measured(number)[1] for number in numbers(name)])
    assert (np.abs(contrasts) > 0.3).all()
    assert 3 < np.count_nonzero(contrasts > 0) < 17


def test_no_two_shapes_are_alike():
    images = [draw(number) for number in range(120)]
    assert len({image.tobytes() for image in images}) == 120
    corners = np.stack([image[0, 0] for image in images])
    assert (corners.std(axis=0) > 40).all()  # all sorts of colours
    centres = [np.argwhere(np.abs(measured(n)[0]) > 0.5).mean(axis=0) for n in range(120)]
    assert (np.std(centres, axis=0) > 6).all()  # all over the image


def test_the_shapes_of_earlier_releases_stay_as_they_were():
    pixels = b"".join(draw(number).tobytes() for number in (*range(6), 8191))
    assert (
        hashlib.sha256(pixels).hexdigest()
        == "a55e1314d69a5100c66a75f1ffee87aa1c79ba6c6591fd21b14812c0db18707a"
    )


# Photos


def test_no_pixel_of_a_held_out_crop_is_in_a_training_crop():
    seen = {split: np.zeros((len(PHOTOGRAPHS), 427, 640), bool) for split in ("train", "val")}
    for crop in crops(50_000):
        photograph, top, left, side = crop
        seen[crop.split][photograph, top : top + side, left : left + side] = True
    assert not (seen["train"] & seen["val"]).any()
    assert seen["train"].sum() == pytest.approx(4 * seen["val"].sum(), rel=1e-3)


def test_a_fifth_of_each_photograph_is_held_out():
    counts = Counter((record.label, record.split) for record in EMBEDDED["photos"](4000).records)
    assert counts == {(0, "train"): 1600, (0, "val"): 400, (1, "train"): 1600, (1, "val"): 400}


def test_crops_are_the_photographs_own_pixels():
    source = embedded("builtin:photos", 200)
    photographs = [load_sample_image(f"{name}.jpg") for name in source.classes]
    for record in source.records:
        _, top, left, side = record.at
        pixels = decoded(source.load(record))
        assert pixels.shape == (side, side, 3)
        expected = photographs[record.label][top : top + side, left : left + side]
        assert np.array_equal(pixels, expected)


def test_crops_have_all_sizes_and_no_two_show_the_same():
    source = embedded("builtin:photos", None)
    assert {Crop(*record.at).side for record in source.records} == set(range(32, 65))
    shown = {decoded(source.load(record)).tobytes() for record in source.records}
    assert len(shown) == len(source.records)


def test_each_possible_crop_comes_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ray_diffusion.data.packing.photos.SIDES", range(60, 65))
    possible = 50 * sum((71 - side + 1) * (64 - side + 1) for side in range(60, 65))
    assert len(set(crops(possible))) == possible
    with pytest.raises(UsageError, match=f"builtin:photos has {possible} images, not {10**9}"):
        embedded("builtin:photos", 10**9)


def test_the_crops_of_earlier_releases_stay_as_they_were():
    places = json.dumps([list(crop) for crop in crops(1000)])
    assert (
        hashlib.sha256(places.encode()).hexdigest()
        == "424a4cf61de6cfd12158eb6e87f5e9d1812ce90523cab8549a70ac369280196f"
    )
