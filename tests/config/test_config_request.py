from typing import Literal

import pytest
from pydantic import Field, model_validator

from ray_diffusion import config
from ray_diffusion.errors import ConfigError


class SampleRequest(config.Values):
    model: str = Field(description="A run directory.")
    num_images: config.Int = Field(default=64, ge=1, description="Images to make.")
    out: str | None = Field(default=None, description="File to write.")
    weights: Literal["ema", "raw"] = Field(default="ema", description="Which weights.")
    dry_run: config.Bool = Field(default=False, description="Change nothing.")

    @model_validator(mode="after")
    def _out_is_not_the_model(self) -> "SampleRequest":
        if self.out == self.model:
            raise ValueError("out must not be the model")
        return self


class ServeRequest(config.Values):
    models: tuple[str, ...] = ()
    port: config.Int = 8000


def problems_of(*argv: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.parse(argv, SampleRequest, ["model", "num_images"])
    return caught.value.problems


def test_bare_words_fill_the_positional_fields_in_order():
    request = config.parse(
        ["out=x.png", "runs/digits", "7"], SampleRequest, ["model", "num_images"]
    )
    assert request == SampleRequest(model="runs/digits", num_images=7, out="x.png")


def test_a_positional_field_can_be_named():
    assert config.parse(["model=a=b"], SampleRequest, ["model"]).model == "a=b"


def test_a_positional_tuple_takes_all_words():
    assert config.parse(["a", "port=1", "b"], ServeRequest, ["models"]).models == ("a", "b")
    assert config.parse([], ServeRequest, ["models"]).models == ()


def test_a_flag_takes_the_word_behind_it():
    wanted = SampleRequest(model="a", out="x.png", num_images=3)
    for spelling in (["--num-images", "3"], ["--num_images", "3"], ["--num-images=3"]):
        argv = ["--out", "x.png", *spelling, "a"]
        assert config.parse(argv, SampleRequest, ["model"]) == wanted


def test_a_bool_field_is_also_a_flag():
    assert config.parse(["a", "--dry-run"], SampleRequest, ["model"]).dry_run


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([], "model: missing"),
        (["a", "1", "b"], "'b': one word too many"),
        (["a", "model=b"], "model: given twice, as 'a' and as model="),
        (["a", "numimages=3"], "numimages: unknown key; did you mean 'num_images'?"),
        (["a", "--dryrun"], "--dryrun: unknown flag; did you mean '--dry-run'?"),
        (["a", "--hlp"], "--hlp: unknown flag; did you mean '--help'?"),
        (["a", "1", "out"], "out: needs a value, as in out=VALUE"),
        (["a", "x"], "num_images: 'x' is not a whole number"),
        (["a", "weights=row"], "weights: 'row' is not one of ema, raw; did you mean 'raw'?"),
        (["a", "out=a"], "out must not be the model"),
    ],
)
def test_a_mistake_is_one_plain_line(argv: list[str], line: str):
    assert problems_of(*argv) == [line]


def test_all_mistakes_are_listed_at_once():
    assert problems_of("nmu=1", "num_images=0", "--x") == [
        "nmu: unknown key",
        "--x: unknown flag",
        "model: missing",
        "num_images: must be at least 1, got 0",
    ]


def test_help_is_printed_and_ends_the_process(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        config.request(
            ["--help"], SampleRequest, verb="sample", doc="Make images.", positional=["model"]
        )
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(
        "usage: python -m ray_diffusion.sample MODEL [key=value ...] [--help]\n\nMake images.\n"
    )
    assert "  num_images=64  Images to make. (int >= 1)\n" in text
    assert "  model          A run directory. (text; required)\n" in text


def test_a_repeated_positional_shows_in_the_usage(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        config.request(["-h"], ServeRequest, verb="serve", doc=None, positional=["models"])
    assert "ray_diffusion.serve [MODELS ...] [key=value ...]" in capsys.readouterr().out


def test_request_reads_the_arguments():
    request = config.request(["a"], SampleRequest, verb="sample", doc=None, positional=["model"])
    assert request.model == "a"
