"""Every preset describes a network that can be built, and says how large it is."""

import re

import pytest
import torch

from ray_diffusion import config
from ray_diffusion.config import Config, presets
from ray_diffusion.data.packing.embedded import SCHEME, embedded
from ray_diffusion.models.build import build
from ray_diffusion.models.draw import levels_of, logsnr_table


def resolved(name: str) -> Config:
    """The preset with what a launch would have found in its dataset: ten classes if it is yours."""
    run, text = config.load([name]), presets.path(name).read_text()
    encoded = re.search(r"source=(builtin:\w+)", text)  # what its latents are made of
    source = encoded[1] if encoded else run.data.dataset_url
    classes, channels = run.model.num_classes, run.model.image_channels
    if classes is None:
        classes = len(embedded(source, 1).classes) if source.startswith(SCHEME) else 10
    if channels is None:  # presets of latents say it
        channels = 1 if source == "builtin:digits" else 3
    return config.override(run, {"model.image_channels": channels, "model.num_classes": classes})


def size_of(run: Config) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(run).parameters())


@pytest.mark.parametrize("name", presets.names())
def test_a_preset_says_how_many_parameters_its_network_has(name: str):
    said = re.search(
        r"^# Network: .* ([\d,]+) parameters$", presets.path(name).read_text(), re.MULTILINE
    )
    assert said
    assert int(said[1].replace(",", "")) == size_of(resolved(name))


@pytest.mark.parametrize("name", presets.names())
def test_the_sampler_of_a_preset_finds_its_levels(name: str):
    run = resolved(name)
    assert len(levels_of(run)) == run.sampler.num_inference_steps + 1


@pytest.mark.parametrize("name", presets.names())
def test_a_preset_names_its_run_and_its_command(name: str):
    text = presets.path(name).read_text()
    assert f"# Command:  python -m ray_diffusion.train {name}" in text
    assert re.search("^# Cost: +", text, re.MULTILINE)
    assert re.search("^# Expect: +", text, re.MULTILINE)
    assert config.load([name]).run.name == name


@pytest.mark.parametrize("name", [name for name in presets.names() if name.startswith("latent-")])
def test_a_preset_of_latents_says_how_they_are_made_and_their_shape(name: str):
    run, text = config.load([name]), presets.path(name).read_text()
    assert f"out={run.data.dataset_url}\n" in text
    kind, _, said = re.findall(r"codec=([\w-]+)([:/])(\S+)", text)[0]
    if kind == "runs":
        codec = config.load([said])
        assert codec.data.image_size == run.data.image_size
        channels, factor = codec.model.latent_channels, codec.model.latent_factor
    elif kind == "block-dct":
        factor, coefficients = map(int, said.split(","))
        channels = 3 * coefficients
    else:
        channels, factor = 4, 8  # Stable Diffusion's
    assert (run.model.image_channels, run.data.side) == (channels, run.data.image_size // factor)


@pytest.mark.parametrize(
    ("name", "published"), [("ddpm-cifar10", 35_700_000), ("lucidrains", 35_711_107)]
)
def test_a_network_after_another_is_of_its_size(name: str, published: int):
    assert size_of(resolved(name)) == pytest.approx(published, rel=0.04)


def test_the_ddpm_network_attends_at_16_pixels():
    run = resolved("ddpm-cifar10")
    assert [run.data.image_size >> level for level in run.model.attention_levels] == [16]


def test_the_24_step_preset_has_the_betas_of_the_tutorial():
    alpha_bar = 1.0
    for t in range(24):
        alpha_bar *= 1 - (1e-4 + (0.6 - 1e-4) * t / 23)
    last = logsnr_table(resolved("tutorial-24-step"))[-1].sigmoid()
    assert float(last) == pytest.approx(alpha_bar, rel=1e-9)
