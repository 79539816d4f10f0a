import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ray_diffusion.errors import DataError, UsageError
from ray_diffusion.models.codecs import stored
from ray_diffusion.models.codecs.diffusers_vae import DiffusersVae

SCALES = [(0.5, 0.1), (0.18215, None), (1.0, 0.0)]
EARLY_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def tiny(diffusers: Any, scaling_factor: float = math.pi, shift_factor: float | None = None) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return diffusers.AutoencoderKL(
            in_channels=1,
            out_channels=1,
            block_out_channels=(4, 4, 8),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=2,
            norm_num_groups=2,
            scaling_factor=scaling_factor,
            shift_factor=shift_factor,
        ).requires_grad_(False)


def images() -> Tensor:
    return torch.rand(2, 1, 16, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def rewritten(directory: Path, **changes: object) -> None:
    """Change a model's config; None leaves the value out."""
    config = json.loads((directory / "config.json").read_text()) | changes
    kept = {key: value for key, value in config.items() if changes.get(key, ...) is not None}
    (directory / "config.json").write_text(json.dumps(kept))


def refused(name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=f"^codec: {reason}") as found:
        DiffusersVae.pretrained(name)
    assert "\n" not in str(found.value)


@pytest.fixture(scope="module")
def diffusers() -> Any:
    return pytest.importorskip("diffusers", reason="diffusers is not installed")


@pytest.fixture(scope="module", params=SCALES, ids=str)
def vae(diffusers: Any, request: pytest.FixtureRequest) -> Any:
    scaling, shift = request.param
    return tiny(diffusers, scaling_factor=scaling, shift_factor=shift)


@pytest.fixture
def one(diffusers: Any, tmp_path: Path) -> Path:
    """A directory that diffusers has written."""
    tiny(diffusers, scaling_factor=0.5, shift_factor=0.1).save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


def test_without_diffusers_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    needed = r"^codec: .* needs it: pip install 'ray-diffusion\[diffusers\]'$"
    with pytest.raises(UsageError, match=needed):
        DiffusersVae({})
    with pytest.raises(UsageError, match=needed):
        DiffusersVae.pretrained("anyone/anything")


def test_latents_are_those_of_diffusers_shifted_and_scaled(vae: Any, tmp_path: Path):
    vae.save_pretrained(tmp_path)
    codec = DiffusersVae.pretrained(str(tmp_path))
    posterior, z = codec.encode(images()), vae.encode(images()).latent_dist
    scaling, shift = vae.config.scaling_factor, vae.config.shift_factor or 0
    assert posterior.logvar is not None
    torch.testing.assert_close(posterior.mean, (z.mean - shift) * scaling)
    torch.testing.assert_close((posterior.logvar / 2).exp(), z.std * scaling)


def test_a_sample_is_that_of_a_pipeline(vae: Any, tmp_path: Path):
    vae.save_pretrained(tmp_path)
    codec = DiffusersVae.pretrained(str(tmp_path))
    z = vae.encode(images()).latent_dist
    noise = torch.randn(z.mean.shape, generator=torch.Generator().manual_seed(3))
    drawn = z.sample(torch.Generator().manual_seed(3))
    expected = (drawn - (vae.config.shift_factor or 0)) * vae.config.scaling_factor
    torch.testing.assert_close(codec.encode(images()).sample(noise), expected)


def test_images_are_those_of_diffusers(vae: Any, tmp_path: Path):
    vae.save_pretrained(tmp_path)
    codec = DiffusersVae.pretrained(str(tmp_path))
    latents = codec.encode(images()).mean
    expected = vae.decode(vae.encode(images()).latent_dist.mean).sample
    torch.testing.assert_close(codec.decode(latents), expected, atol=1e-5, rtol=1e-4)


def test_a_codec_says_what_it_makes(one: Path):
    codec = DiffusersVae.pretrained(str(one))
    x0 = images()
    latents = codec.encode(x0).mean
    assert (codec.image_channels, codec.latent_channels, codec.factor) == (1, 2, 4)
    assert latents.shape == (2, 2, 16 // 4, 8 // 4)
    assert codec.decode(latents).shape == x0.shape
    assert codec.stochastic


def test_defaults_are_those_of_diffusers(one: Path):
    """Early models of the hub have no scale in their config."""
    rewritten(one, scaling_factor=None)
    codec = DiffusersVae.pretrained(str(one))
    z = codec.vae.encode(images()).latent_dist
    torch.testing.assert_close(codec.encode(images()).mean, (z.mean - 0.1) * 0.18215)


def test_what_was_loaded_is_not_trained(one: Path):
    codec = DiffusersVae.pretrained(str(one))
    assert not codec.training
    assert not any(parameter.requires_grad for parameter in codec.parameters())


def test_half_precision_on_disk_is_single_in_memory(diffusers: Any, tmp_path: Path):
    vae = tiny(diffusers).half()
    vae.save_pretrained(tmp_path)
    assert load_file(tmp_path / WEIGHTS)["encoder.conv_in.weight"].dtype == torch.float16
    codec = DiffusersVae.pretrained(str(tmp_path))
    assert {value.dtype for value in codec.state_dict().values()} == {torch.float32}
    assert codec.encode(images()).mean.equal(
        vae.float().encode(images()).latent_dist.mean * math.pi
    )


def test_attention_may_have_the_names_of_early_models(one: Path):
    x0, new = images(), DiffusersVae.pretrained(str(one))
    weights = load_file(one / WEIGHTS)
    for name in [name for name in weights if ".attentions." in name]:
        early = name
        for now, once in EARLY_NAMES.items():
            early = early.replace(now, once)
        weights[early] = weights.pop(name)
    save_file(weights, one / WEIGHTS, metadata={"format": "pt"})
    assert DiffusersVae.pretrained(str(one)).encode(x0).mean.equal(new.encode(x0).mean)


def test_a_codec_returns_from_its_files(one: Path, tmp_path: Path):
    codec = DiffusersVae.pretrained(str(one))
    fingerprint = stored.save(codec, tmp_path)
    loaded = stored.load(tmp_path)
    assert isinstance(loaded, DiffusersVae)
    assert stored.fingerprint(loaded) == fingerprint
    assert fingerprint.startswith("diffusers-")
    for found, expected in zip(loaded.encode(images()), codec.encode(images()), strict=True):
        assert found is not None
        assert found.equal(expected)
    latents = codec.encode(images()).mean
    assert loaded.decode(latents).equal(codec.decode(latents))


def test_a_fingerprint_does_not_depend_on_the_place(one: Path, tmp_path: Path):
    copy = shutil.copytree(one, tmp_path / "copy")
    rewritten(copy, _diffusers_version="0.1", _name_or_path="elsewhere")
    first, second = (DiffusersVae.pretrained(str(path)) for path in (one, copy))
    assert stored.fingerprint(first) == stored.fingerprint(second)
    assert not [key for key in first.options["config"] if key.startswith("_")]


def test_a_stored_codec_needs_diffusers(one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stored.save(DiffusersVae.pretrained(str(one)), tmp_path)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UsageError, match="pip install"):
        stored.load(tmp_path)


def test_a_stored_config_of_something_else_is_refused(one: Path, tmp_path: Path):
    stored.save(DiffusersVae.pretrained(str(one)), tmp_path)
    said = json.loads((tmp_path / "codec.json").read_text())
    said["options"]["config"]["act_fn"] = "nonsense"
    (tmp_path / "codec.json").write_text(json.dumps(said))
    with pytest.raises(DataError, match="nonsense"):
        stored.load(tmp_path)


def test_a_directory_may_be_in_the_home_directory(one: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(one.parent))
    assert DiffusersVae.pretrained("~/vae").factor == 4


def test_a_directory_goes_before_the_hub(one: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(one.parent.parent)
    assert DiffusersVae.pretrained(f"{one.parent.name}/vae").factor == 4


@pytest.mark.usefixtures("diffusers")
@pytest.mark.parametrize("name", ["/no/such", "./no/such", "~/no/such"])
def test_a_directory_that_is_not_there_is_not_sought_in_the_hub(name: str):
    where = Path(name).expanduser()
    with pytest.raises(UsageError, match=f"^codec: there is no directory {where}$"):
        DiffusersVae.pretrained(name)


@pytest.mark.usefixtures("diffusers")
@pytest.mark.filterwarnings("ignore:The `local_dir_use_symlinks` argument")
@pytest.mark.parametrize("name", ["nobody/nothing", "no/id/of/a/model"])
def test_a_model_that_the_hub_has_not_is_named(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused(name, f"diffusers finds no AutoencoderKL in {name}: .")


@pytest.mark.usefixtures("diffusers")
def test_an_empty_directory_is_refused(tmp_path: Path):
    refused(str(tmp_path), f"diffusers finds no AutoencoderKL in {tmp_path}: .*config.json")


@pytest.mark.parametrize("found", ["UNet2DModel", "AutoencoderTiny", None])
def test_another_model_is_refused(one: Path, found: str | None):
    rewritten(one, _class_name=found)
    refused(str(one), f"{one} holds a model of class {found}, not AutoencoderKL$")


def test_a_config_that_cannot_be_is_refused(one: Path):
    rewritten(one, act_fn="nonsense")
    refused(str(one), f"diffusers finds no AutoencoderKL in {one}: .*nonsense")


def test_lost_or_damaged_weights_are_refused(one: Path):
    for damage in (
        lambda path: path.write_bytes(path.read_bytes()[:1000]),
        lambda path: path.unlink(),
    ):
        damage(one / WEIGHTS)
        refused(str(one), f"diffusers finds no AutoencoderKL in {one}: .*{WEIGHTS}")


def test_weights_are_never_unpickled(one: Path):
    torch.save(load_file(one / WEIGHTS), one / "diffusion_pytorch_model.bin")
    (one / WEIGHTS).unlink()
    refused(str(one), f"diffusers finds no AutoencoderKL in {one}: .*{WEIGHTS}")


def test_weights_of_other_shapes_are_refused(one: Path):
    weights = load_file(one / WEIGHTS)
    weights["quant_conv.bias"] = torch.zeros(3)
    save_file(weights, one / WEIGHTS, metadata={"format": "pt"})
    refused(str(one), f"diffusers finds no AutoencoderKL in {one}: .*quant_conv.bias")


def test_weights_that_are_not_all_there_are_refused(one: Path):
    weights = load_file(one / WEIGHTS)
    del weights["decoder.conv_in.bias"]
    save_file(weights, one / WEIGHTS, metadata={"format": "pt"})
    refused(str(one), f"{one} has no weights for decoder.conv_in.bias$")
