"""What the last lines of a launch say is to be done next."""

import shlex

import pytest

from ray_diffusion import config, encode
from ray_diffusion.cluster.summary import Summary, images_of_codec, uses

AUTOENCODER = ["model.kind=autoencoder"]


def last_words(summary: Summary) -> dict[str, str]:
    rows = [line.split(maxsplit=1) for line in summary.block().splitlines()]
    return {name: text for name, text in rows if "python -m" in text or "the same" in text}


def test_a_finished_model_is_looked_at_and_measured():
    assert last_words(Summary("finished", "s3://bucket/digits")) == {
        "look": "python -m ray_diffusion.sample s3://bucket/digits num_images=64",
        "measure": "python -m ray_diffusion.evaluate s3://bucket/digits",
        "MLflow": "not reached; the same command again ships its records",
    }


def test_a_finished_autoencoder_encodes():
    told = last_words(Summary("finished", "my runs/ae", codec_of="datasets/photos"))
    assert told == {
        "encode": "python -m ray_diffusion.encode source=datasets/photos codec='my runs/ae' "
        "out=datasets/latents",
        "MLflow": "not reached; the same command again ships its records",
    }


def test_an_autoencoder_that_did_not_finish_goes_on_first():
    told = last_words(Summary("preempted", "runs/ae", codec_of="datasets/photos"))
    assert told["continue"] == "the same command again"
    assert "encode" not in told


@pytest.mark.parametrize(
    ("data", "source", "image_size"),
    [
        (["data.dataset_url=their datasets/b", "data.image_size=64"], "their datasets/b", None),
        (["data.dataset_url=builtin:shapes", "data.image_size=32"], "builtin:shapes", 32),
    ],
)
def test_encode_understands_what_it_is_offered(
    data: list[str], source: str, image_size: int | None
):
    images = images_of_codec(config.load(AUTOENCODER + data))
    words = shlex.split(uses("runs/ae", images)["encode"])[3:]
    request = config.parse(words, encode.EncodeRequest)
    assert (request.source, request.image_size) == (source, image_size)
    assert (request.codec, request.out) == ("runs/ae", "datasets/latents")


def test_diffusion_models_are_the_codec_of_nothing():
    assert images_of_codec(config.load([])) is None
