from pathlib import Path

import pytest
import torch
from torch import Tensor

from ray_diffusion.errors import DataError
from ray_diffusion.models.codecs import space as spaces
from ray_diffusion.models.codecs.block_dct import BlockDct
from ray_diffusion.models.codecs.codec import Codec, Posterior
from ray_diffusion.models.codecs.space import DECODED_AT_ONCE, LatentSpace, Pixels
from ray_diffusion.models.pixels import encode

MEAN, STD = [0.5, -1.0, 2.0], [2.0, 0.25, 4.0]


def no_noise(*shape: int) -> Tensor:
    raise AssertionError("nothing is to be drawn")


def images(count: int, channels: int = 1, side: int = 8) -> Tensor:
    draws = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, channels, side, side), generator=draws, dtype=torch.uint8)


def of_dct(coefficients: int = 3) -> tuple[LatentSpace, Codec]:
    codec = BlockDct(1, 2, coefficients)
    return LatentSpace(MEAN[:coefficients], STD[:coefficients], lambda: codec), codec


def test_pixels_are_what_the_pixel_codec_says():
    some = images(3)
    x0 = Pixels().x0(some, no_noise)
    assert x0.equal(encode(some))
    assert Pixels().images(x0).equal(some)
    assert Pixels().encode(some).equal(x0)
    assert Pixels().image_shape((1, 8, 8)) == (1, 8, 8)


def test_means_alone_are_standardised_by_channel_and_nothing_is_drawn():
    space, _ = of_dct()
    read = torch.randn(4, 3, 4, 4).half()
    x0 = space.x0(read, no_noise)
    wanted = (read.float() - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    assert x0.dtype == torch.float32
    torch.testing.assert_close(x0, wanted)


def test_a_latent_with_a_variance_is_drawn_before_it_is_standardised():
    space, _ = of_dct()
    mean, logvar, noise = (torch.randn(4, 3, 2, 2) for _ in range(3))
    asked = []

    def drawn(*shape: int) -> Tensor:
        asked.append(shape)
        return noise

    found = space.x0(torch.cat([mean, logvar], 1), drawn)
    assert asked == [(3, 2, 2)]
    latents = Posterior(mean, logvar).sample(noise)
    torch.testing.assert_close(found, space.x0(latents, no_noise))


def test_images_of_encoded_images_are_the_images_where_the_codec_loses_nothing():
    codec = BlockDct(1, 2, 4)
    space = LatentSpace([*MEAN, 0.1], [*STD, 0.5], lambda: codec)
    some = images(2 * DECODED_AT_ONCE + 3)  # decoded in three parts
    assert space.images(space.encode(some)).equal(some)
    assert space.image_shape((4, 4, 4)) == (1, 8, 8)


def test_images_have_no_gradient_to_be_kept_for():
    space, _ = of_dct()
    assert not space.images(torch.randn(1, 3, 4, 4, requires_grad=True)).requires_grad


def test_a_latent_is_kept_where_all_of_its_pixels_are():
    space, _ = of_dct()
    mask = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    mask[0, 0, 0, 3] = False
    assert space.keep(mask).tolist() == [[[[True, False], [True, True]]]]
    assert Pixels().keep(mask) is mask


def test_a_codec_is_not_made_before_it_is_needed():
    def never() -> Codec:
        raise AssertionError("it is not needed")

    LatentSpace(MEAN, STD, never).x0(torch.zeros(1, 3, 2, 2), no_noise)


def test_a_space_comes_back_from_its_files(tmp_path: Path):
    space, _ = of_dct()
    space.save(tmp_path)
    again, x0 = spaces.load(tmp_path), torch.randn(3, 3, 4, 4)
    assert again.images(x0).equal(space.images(x0))


def test_a_folder_without_a_scale_is_one_of_pixels(tmp_path: Path):
    assert isinstance(spaces.load(tmp_path), Pixels)


def test_a_scale_without_its_codec_is_refused(tmp_path: Path):
    of_dct()[0].save(tmp_path)
    (tmp_path / "codec.json").unlink()
    with pytest.raises(DataError, match="holds no codec"):
        spaces.load(tmp_path)
