import hashlib
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy.fft import dctn
from torch import Tensor

from ray_diffusion.errors import DataError
from ray_diffusion.models import pixels
from ray_diffusion.models.codecs import stored
from ray_diffusion.models.codecs.autoencoder import Autoencoder
from ray_diffusion.models.codecs.block_dct import BlockDct, dct_basis, zigzag
from ray_diffusion.models.codecs.codec import Codec, Posterior
from ray_diffusion.models.codecs.identity import Identity

FACTORS = [1, 2, 4, 8]
WHOLE = [BlockDct(3, factor, factor**2) for factor in FACTORS]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def levels(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator)


def autoencoder() -> Autoencoder:
    return Autoencoder(1, 2, channels=8, channel_mults=(1,), blocks_per_level=1, patch_size=2)


# --- what a codec is


def test_a_sample_is_the_mean_and_a_deviation_of_noise():
    mean, deviation, z = noise(2, 4, 3, 3), noise(2, 4, 3, 3, seed=1).exp(), noise(2, 4, 3, 3)
    sample = Posterior(mean, 2 * deviation.log()).sample(z)
    torch.testing.assert_close(sample, mean + deviation * z)


def test_without_a_variance_noise_is_of_no_matter():
    mean = noise(2, 4, 3, 3)
    assert Posterior(mean).sample(noise(2, 4, 3, 3, seed=1)).equal(mean)


@pytest.mark.parametrize("codec", [Identity(3), *WHOLE, BlockDct(3, 4, 5)], ids=repr)
def test_latents_are_as_the_codec_says(codec: Codec):
    x0 = noise(2, 3, 16, 24)
    posterior = codec.encode(x0)
    sides = (16 // codec.factor, 24 // codec.factor)
    assert posterior.mean.shape == (2, codec.latent_channels, *sides)
    assert (posterior.logvar is not None) == codec.stochastic
    assert codec.decode(posterior.mean).shape == x0.shape
    assert type(codec)(**codec.options).encode(x0).mean.equal(posterior.mean)


def test_identity_changes_nothing():
    x0 = noise(2, 3, 5, 7)
    assert Identity(3).encode(x0).mean.equal(x0)
    assert Identity(3).decode(x0).equal(x0)


# --- block-dct


def test_the_zigzag_is_that_of_jpeg():
    ranks = [[0] * 8 for _ in range(8)]
    for rank, (i, j) in enumerate(zigzag(8)):
        ranks[i][j] = rank
    assert ranks == [
        [0, 1, 5, 6, 14, 15, 27, 28],
        [2, 4, 7, 13, 16, 26, 29, 42],
        [3, 8, 12, 17, 25, 30, 41, 43],
        [9, 11, 18, 24, 31, 40, 44, 53],
        [10, 19, 23, 32, 39, 45, 52, 54],
        [20, 22, 33, 38, 46, 51, 55, 60],
        [21, 34, 37, 47, 50, 56, 59, 61],
        [35, 36, 48, 49, 57, 58, 62, 63],
    ]


@pytest.mark.parametrize("side", [1, 2, 3, 8, 16])
def test_the_basis_is_orthonormal(side: int):
    basis = dct_basis(side)
    assert basis.dtype == torch.float64
    torch.testing.assert_close(basis @ basis.T, torch.eye(side, dtype=torch.float64))


@pytest.mark.parametrize("factor", FACTORS)
def test_each_square_is_transformed_as_by_scipy(factor: int):
    x0 = noise(2, 3, 16, 24)
    latents = BlockDct(3, factor, factor**2).encode(x0).mean
    for y, x, channel in [(0, 0, 0), (1, 2, 1), (16 // factor - 1, 24 // factor - 1, 2)]:
        rows, columns = (slice(at * factor, (at + 1) * factor) for at in (y, x))
        square = dctn(x0[1, channel, rows, columns].numpy(), norm="ortho") / factor
        expected = torch.tensor([square[at] for at in zigzag(factor)])
        found = latents[1, :, y, x].unflatten(0, (-1, 3))[:, channel]
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("factor", FACTORS)
def test_the_first_channels_are_a_thumbnail(factor: int):
    x0 = noise(2, 3, 16, 24)
    thumbnail = torch.nn.functional.avg_pool2d(x0, factor)
    for coefficients in {1, factor**2}:
        latents = BlockDct(3, factor, coefficients).encode(x0).mean
        torch.testing.assert_close(latents[:, :3], thumbnail, atol=1e-6, rtol=1e-5)


def test_fewer_coefficients_are_the_first_of_all():
    x0 = noise(2, 3, 16, 24)
    torch.testing.assert_close(
        BlockDct(3, 4, 5).encode(x0).mean, BlockDct(3, 4, 16).encode(x0).mean[:, :15]
    )


@pytest.mark.parametrize("codec", WHOLE, ids=FACTORS)
def test_energy_is_kept_but_for_the_scale(codec: BlockDct):
    x0 = noise(2, 3, 16, 24)
    energy = codec.encode(x0).mean.square().sum() * codec.factor**2
    torch.testing.assert_close(energy, x0.square().sum())


@pytest.mark.parametrize("coefficients", [1, 3, 10, 15])
def test_what_is_lost_is_the_energy_of_the_other_coefficients(coefficients: int):
    x0 = noise(2, 3, 16, 24)
    kept = BlockDct(3, 4, coefficients)
    lost = BlockDct(3, 4, 16).encode(x0).mean[:, kept.latent_channels :].square().sum() * 4**2
    torch.testing.assert_close((kept.decode(kept.encode(x0).mean) - x0).square().sum(), lost)


@given(
    st.sampled_from([(1, 1), (2, 3), (4, 6), (8, 10)]), st.integers(1, 3), st.integers(0, 2**32 - 1)
)
def test_latents_of_images_without_the_lost_detail_return(
    cut: tuple[int, int], channels: int, seed: int
):
    codec = BlockDct(channels, *cut)
    latents = noise(1, codec.latent_channels, 2, 3, seed=seed)
    torch.testing.assert_close(
        codec.encode(codec.decode(latents)).mean, latents, atol=1e-5, rtol=1e-4
    )


def extremes() -> dict[str, Tensor]:
    place = torch.arange(16)
    pixel = torch.zeros(16, 16)
    pixel[3, 5] = 255
    return {
        "black": torch.zeros(16, 16),
        "white": torch.full((16, 16), 255),
        "checks": (place[:, None] + place) % 2 * 255,
        "stripes": (place[:, None] // 3 % 2 * 255).expand(16, 16),
        "a white pixel": pixel,
        "black and white": levels(16, 16) // 128 * 255,
    }


@pytest.mark.parametrize("codec", WHOLE, ids=FACTORS)
@pytest.mark.parametrize("name", extremes())
def test_extreme_images_survive_float16_to_the_byte(name: str, codec: BlockDct):
    image = extremes()[name].to(torch.uint8).expand(1, 3, 16, 16)
    latents = codec.encode(pixels.encode(image)).mean.half()
    assert pixels.decode(codec.decode(latents.float())).equal(image)


@given(st.integers(0, 2**32 - 1))
def test_random_images_survive_float16_to_the_byte(seed: int):
    image = levels(2, 3, 16, 24, seed=seed)
    for codec in WHOLE:
        latents = codec.encode(pixels.encode(image)).mean.half()
        assert pixels.decode(codec.decode(latents.float())).equal(image)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_the_rounding_of_float16_moves_pixels_by_less_than_promised(factor: int):
    codec = BlockDct(1, factor, factor**2)
    x0 = noise(256, 1, factor, factor).sign()
    exact = codec.encode(x0).mean
    moved = codec.decode(exact.half().float() - exact).abs().amax()
    assert moved < factor / 2048


def test_a_block_dct_has_no_weights():
    assert BlockDct(3, 4, 5).state_dict() == {}
    assert list(BlockDct(3, 4, 5).parameters()) == []


@pytest.mark.parametrize(
    ("factor", "coefficients", "reason"),
    [
        (0, 1, "squares of side 0; it must be 1 to 64"),
        (-2, 4, "squares of side -2; it must be 1 to 64"),
        (2, 5, "5 coefficients of squares of side 2; it must be 1 to 4"),
        (2, 0, "0 coefficients of squares of side 2; it must be 1 to 4"),
    ],
)
def test_no_other_coefficients_can_be_kept(factor: int, coefficients: int, reason: str):
    with pytest.raises(ValueError, match=f"^block-dct: {reason}$"):
        BlockDct(3, factor, coefficients)


# --- in files


MADE = {"identity": Identity(3), "block-dct": BlockDct(3, 4, 5), "autoencoder": autoencoder()}


@pytest.mark.parametrize("kind", MADE)
def test_a_codec_returns_from_its_files(kind: str, tmp_path: Path):
    codec = MADE[kind]
    fingerprint = stored.save(codec, tmp_path)
    loaded = stored.load(tmp_path)
    assert type(loaded) is type(codec)
    assert stored.fingerprint(loaded) == fingerprint == stored.fingerprint(codec)
    x0 = noise(2, codec.image_channels, 16, 24)
    assert loaded.encode(x0).mean.equal(codec.encode(x0).mean)


def test_a_fingerprint_is_the_kind_and_a_digest():
    # Datasets of latents name their codec by it: it must stay the same in each version.
    said = b'["block-dct", {"coefficients": 5, "factor": 4, "image_channels": 3}]'
    expected = f"block-dct-{hashlib.sha256(said).hexdigest()[:12]}"
    assert stored.fingerprint(BlockDct(3, 4, 5)) == expected


def test_other_options_have_another_fingerprint():
    codecs = [Identity(1), Identity(3), BlockDct(1, 2, 3), BlockDct(1, 3, 2), BlockDct(3, 2, 3)]
    assert len({stored.fingerprint(codec) for codec in codecs}) == len(codecs)


def test_other_weights_have_another_fingerprint():
    codec = autoencoder()
    before = stored.fingerprint(codec)
    with torch.no_grad():
        next(codec.parameters()).view(-1)[0] += 1e-3
    assert stored.fingerprint(codec) != before


def test_weights_may_lie_in_any_order(tmp_path: Path):
    codec = autoencoder()
    before = stored.fingerprint(codec)
    assert stored.save(codec.to(memory_format=torch.channels_last), tmp_path) == before
    assert stored.fingerprint(stored.load(tmp_path)) == before


def test_a_loaded_codec_is_not_trained(tmp_path: Path):
    stored.save(autoencoder(), tmp_path)
    loaded = stored.load(tmp_path)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_loading_draws_nothing_from_the_generator_of_others(tmp_path: Path):
    stored.save(autoencoder(), tmp_path)
    before = torch.get_rng_state()
    stored.load(tmp_path)
    assert torch.get_rng_state().equal(before)


def test_only_weights_need_a_second_file(tmp_path: Path):
    stored.save(BlockDct(3, 4, 5), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["codec.json"]


def rewritten(directory: Path, **changes: object) -> None:
    said = json.loads((directory / "codec.json").read_text())
    (directory / "codec.json").write_text(json.dumps(said | changes))


def test_no_codec_is_found_where_none_is(tmp_path: Path):
    for directory in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(
            DataError, match=rf"^{directory} holds no codec: it has no codec\.json$"
        ):
            stored.load(directory)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": "wavelet"}, "its kind is 'wavelet', not one of identity, block-dct, "),
        ({"kind": "identity"}, ".*unexpected keyword argument"),
        ({"options": {"image_channels": 3}}, ".*missing 2 required positional arguments"),
        ({"options": [3]}, ".*must be a mapping"),
        (
            {"options": {"image_channels": 3, "factor": 2, "coefficients": 9}},
            "block-dct: 9 coefficients of squares of side 2; it must be 1 to 4",
        ),
    ],
)
def test_a_file_of_something_else_is_refused(
    tmp_path: Path, changes: dict[str, object], reason: str
):
    stored.save(BlockDct(3, 4, 5), tmp_path)
    rewritten(tmp_path, **changes)
    where = f"{tmp_path}/codec.json"
    with pytest.raises(DataError, match=f"^{where} is no codec of this program: {reason}") as found:
        stored.load(tmp_path)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"kind": "identity"}', "\udcff"])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str):
    (tmp_path / "codec.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=r"codec\.json is no codec of this program: .") as found:
        stored.load(tmp_path)
    assert "\n" not in str(found.value)


def test_options_that_were_changed_are_refused(tmp_path: Path):
    fingerprint = stored.save(BlockDct(3, 4, 5), tmp_path)
    rewritten(tmp_path, options=BlockDct(3, 4, 6).options)
    with pytest.raises(DataError, match=f"its codec.json says {fingerprint}"):
        stored.load(tmp_path)


def test_weights_that_were_changed_or_lost_are_refused(tmp_path: Path):
    fingerprint = stored.save(autoencoder(), tmp_path)
    weights = autoencoder().state_dict()
    save_file({name: value + 1 for name, value in weights.items()}, tmp_path / stored.WEIGHTS)
    with pytest.raises(DataError, match=f"says {fingerprint}: the weights were changed"):
        stored.load(tmp_path)
    (tmp_path / stored.WEIGHTS).unlink()
    with pytest.raises(DataError, match=f"says {fingerprint}: the weights were changed"):
        stored.load(tmp_path)


def test_weights_of_something_else_are_refused(tmp_path: Path):
    stored.save(autoencoder(), tmp_path)
    written = (tmp_path / stored.WEIGHTS).read_bytes()
    where = rf"^{tmp_path}/codec\.safetensors has no weights for the codec of codec\.json$"
    for damaged in (written[: len(written) // 2], b"", b"no tensors"):
        (tmp_path / stored.WEIGHTS).write_bytes(damaged)
        with pytest.raises(DataError, match=where):
            stored.load(tmp_path)
    save_file({"weight": torch.zeros(3)}, tmp_path / stored.WEIGHTS)
    with pytest.raises(DataError, match=where):
        stored.load(tmp_path)
