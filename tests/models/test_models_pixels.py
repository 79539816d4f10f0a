import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ray_diffusion.models.pixels import contact_sheet, decode, encode

LEVELS = torch.arange(256, dtype=torch.uint8)


def test_all_256_levels_survive_the_round_trip():
    assert decode(encode(LEVELS)).equal(LEVELS)


def test_pixels_span_minus_1_to_1_evenly():
    x0 = encode(LEVELS)
    assert x0.dtype == torch.float32
    assert x0[0] == -1
    assert x0[255] == 1
    torch.testing.assert_close(x0, torch.linspace(-1, 1, 256))


@given(st.floats(-10, 10))
def test_decoding_finds_the_nearest_level(value: float):
    level = int(decode(torch.tensor(value)))
    distances = (encode(LEVELS).double() - value).abs()
    assert distances[level] <= distances.min() + 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_float_can_be_decoded(dtype: torch.dtype):
    assert decode(torch.tensor([-2.0, -1.0, 1.0, 2.0], dtype=dtype)).tolist() == [0, 0, 255, 255]


def test_a_contact_sheet_frames_images_and_leaves_the_rest_white():
    images = torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1, 1)
    sheet = contact_sheet(images, columns=2, least_side=1, gap=1)
    w = 255
    assert sheet[..., 0].tolist() == [
        [w, w, w, w, w, w],
        [w, 10, w, w, 20, w],
        [w, w, w, w, w, w],
        [w, w, w, w, w, w],
        [w, 30, w, w, w, w],
        [w, w, w, w, w, w],
    ]
    assert sheet.shape == (6, 6, 3)
    assert sheet.dtype == torch.uint8
    assert (sheet == sheet[..., :1]).all()  # grey


def test_a_contact_sheet_keeps_colours_and_pixels_in_their_places():
    image = torch.arange(2 * 3 * 2 * 2, dtype=torch.uint8).view(2, 3, 2, 2)
    sheet = contact_sheet(image, columns=2, least_side=2, gap=0)
    assert sheet.equal(torch.cat([image[0], image[1]], dim=2).permute(1, 2, 0))


@pytest.mark.parametrize(("side", "enlarged"), [(8, 48), (28, 56), (48, 48), (64, 64)])
def test_small_images_are_enlarged_by_a_whole_factor(side: int, enlarged: int):
    image = torch.randint(256, (1, 1, side, side), dtype=torch.uint8)
    sheet = contact_sheet(image, columns=1)
    assert sheet.shape == (enlarged + 4, enlarged + 4, 3)
    factor = enlarged // side
    assert sheet[2:-2:factor, 2:-2:factor, 0].equal(image[0, 0])
    assert sheet[1 + factor : -2 : factor, 1 + factor : -2 : factor, 0].equal(image[0, 0])
