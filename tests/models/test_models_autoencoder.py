import json

import pytest
import torch
from torch import Tensor, nn

from ray_diffusion.models.codecs.autoencoder import Autoencoder, ResidualBlock


def built(**options: object) -> Autoencoder:
    """A small one, with the same weights each time."""
    small = {
        "image_channels": 3,
        "latent_channels": 4,
        "channels": 8,
        "channel_mults": (1, 2),
        "blocks_per_level": 1,
        "patch_size": 2,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Autoencoder(**(small | options))


def images(channels: int = 3, height: int = 16, width: int = 16) -> Tensor:
    own = torch.Generator().manual_seed(1)
    return torch.rand(2, channels, height, width, generator=own) * 2 - 1


def with_weights_everywhere(autoencoder: Autoencoder) -> Autoencoder:
    """As after some training, when no weight is 0 any more."""
    own = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in autoencoder.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=own)
    return autoencoder


@pytest.mark.parametrize(
    ("options", "factor"),
    [
        ({"channel_mults": (1,), "patch_size": 1}, 1),
        ({"channel_mults": (1, 2, 2)}, 8),
        ({"channel_mults": [2, 1], "patch_size": 4, "latent_channels": 3}, 8),
        ({"image_channels": 1, "blocks_per_level": 2}, 4),
    ],
)
def test_sides_shrink_by_the_factor_and_come_back(options: dict[str, object], factor: int):
    codec = built(**options)
    x0 = images(codec.image_channels, 32, 16)
    mean, logvar = codec.encode(x0)
    assert codec.factor == factor
    assert codec.stochastic
    assert mean.shape == (2, codec.latent_channels, 32 // factor, 16 // factor)
    assert logvar is not None
    assert logvar.shape == mean.shape
    assert codec.decode(mean).shape == x0.shape


def test_the_options_make_the_same_module_again():
    codec = with_weights_everywhere(built(channel_mults=(2, 1, 1), blocks_per_level=2))
    again = Autoencoder(**json.loads(json.dumps(codec.options)))
    again.load_state_dict(codec.state_dict())
    x0 = images()
    assert again.encode(x0).mean.equal(codec.encode(x0).mean)
    assert again.decode(codec.encode(x0).mean).equal(codec.decode(codec.encode(x0).mean))
    assert again.options == codec.options


def test_a_codec_of_reasonable_width_is_small():
    codec = built(channels=64, blocks_per_level=2)
    assert 3e5 < sum(parameter.numel() for parameter in codec.parameters()) < 2e6


def test_a_new_block_is_its_skip_connection():
    x = torch.randn(2, 8, 4, 4)
    assert ResidualBlock(8, 8)(x).equal(x)
    wider = ResidualBlock(8, 16)
    assert wider(x).equal(wider.skip(x))


def test_a_new_decoder_is_affine_and_shows_what_it_gets():
    decode = built().decode
    a, b = (torch.randn(1, 4, 4, 4) for _ in range(2))
    torch.testing.assert_close(decode(a + b), decode(a) + decode(b) - decode(0 * a))
    assert (decode(a) - decode(b)).std() > 0.01


def test_new_latents_differ_and_have_almost_no_noise():
    mean, logvar = built().encode(images())
    assert mean.std() > 0.1
    assert logvar is not None
    assert logvar.unique().tolist() == [-6.0]


@pytest.mark.parametrize(("shift", "wanted"), [(-1e4, -30.0), (1e4, 20.0)])
def test_log_variances_stay_where_their_exponential_is_finite(shift: float, wanted: float):
    codec = built()
    moments = codec.encoder[-1]
    assert isinstance(moments, nn.Conv2d)
    assert moments.bias is not None
    with torch.no_grad():
        moments.bias[4:] += shift
    logvar = codec.encode(images()).logvar
    assert logvar is not None
    assert logvar.unique().tolist() == [wanted]


def test_an_image_is_encoded_and_decoded_alone():
    codec, x0 = with_weights_everywhere(built()), images()
    mean = codec.encode(x0).mean
    torch.testing.assert_close(codec.encode(x0[1:]).mean, mean[1:])
    torch.testing.assert_close(codec.decode(mean[1:]), codec.decode(mean)[1:])


def test_activations_are_channels_last_whatever_comes_in():
    codec = with_weights_everywhere(built())  # weights that are sharded are not channels_last
    convolved: list[Tensor] = []
    for module in codec.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _module, _inputs, found: convolved.append(found))
    codec.decode(codec.encode(images().contiguous()).mean.contiguous())
    assert all(found.is_contiguous(memory_format=torch.channels_last) for found in convolved)
    assert len(convolved) > 10


def test_every_weight_learns():
    codec, x0 = with_weights_everywhere(built()), images()
    posterior = codec.encode(x0)
    error = codec.decode(posterior.sample(torch.ones_like(posterior.mean))) - x0
    error.square().sum().backward()
    for name, parameter in codec.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_it_learns_to_give_images_back():
    codec, own = built(), torch.Generator().manual_seed(3)
    optimizer = torch.optim.AdamW(codec.parameters(), lr=3e-3)
    places, errors = torch.linspace(0, 6, 16), []
    slopes, phases = torch.rand(2, 16, 3, 1, 1, generator=own)
    x0 = torch.sin(slopes * (places[:, None] + places) + 6 * phases)
    for _ in range(40):
        posterior = codec.encode(x0)
        noise = torch.randn(posterior.mean.shape, generator=own)
        error = (codec.decode(posterior.sample(noise)) - x0).abs().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < errors[0] / 3
