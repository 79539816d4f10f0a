import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ray_diffusion.data.packing.moments import Moments

images = st.lists(arrays(np.uint8, (3, 5, 2)), min_size=1, max_size=6)


@given(images, st.randoms(use_true_random=False))
def test_mean_and_deviation_are_those_of_all_pixels_in_whatever_order(found, random):
    pixels = np.stack(found).reshape(-1, 2) / 255
    total = sum(map(Moments.of, found), Moments.none(2))
    np.testing.assert_allclose(total.mean, pixels.mean(0), atol=1e-6)
    np.testing.assert_allclose(total.std, pixels.std(0), atol=1e-6)
    random.shuffle(found)
    assert sum(map(Moments.of, found), Moments.none(2)) == total


def test_a_grey_image_has_one_channel():
    assert Moments.of(np.array([[0, 3], [4, 5]], np.uint8)) == Moments(4, [12], [50])


def test_sums_do_not_round():
    large = Moments(10**14 + 1, [255 * (10**14 + 1)], [255**2 * (10**14 + 1)])
    assert (large.mean, large.std) == ([1.0], [0.0])
    assert (large + Moments(1, [254], [254**2])).sums == [255 * (10**14 + 1) + 254]
    assert math.isclose((large + large).mean[0], 1)
