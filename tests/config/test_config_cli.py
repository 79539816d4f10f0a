from collections.abc import Mapping

import pytest

from ray_diffusion import config
from ray_diffusion.config import presets
from ray_diffusion.config.help import run_help
from ray_diffusion.config.passwords import without_passwords
from ray_diffusion.config.schema import Config
from ray_diffusion.errors import ConfigError


def command_line(*argv: str) -> config.Options:
    return config.command_line(argv, verb="train", doc="Train a model.\n\n    More.\n")


def test_options_hold_the_config_and_the_dry_run():
    assert command_line("run.seed=3").config.run.seed == 3
    assert not command_line().dry_run
    assert command_line("--dry-run", "digits").dry_run
    assert not command_line("--dry-run").profile
    assert command_line("--profile", "digits").profile


def test_print_config_prints_yaml_that_loads(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        command_line("--print-config", "optim.lr=0.5")
    assert caught.value.code == 0
    assert config.from_yaml(capsys.readouterr().out, "-") == config.load(["optim.lr=0.5"])


def test_print_config_refuses_a_wrong_config():
    with pytest.raises(ConfigError):
        command_line("--print-config", "optim.lr=-1")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_wins_over_mistakes(flag: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        command_line("optim.lrr=1", flag)
    assert caught.value.code == 0
    assert "Train a model." in capsys.readouterr().out


def test_help_shows_every_key_with_its_default_and_every_preset():
    text = run_help("train", None)
    for key in config.leaves(Config):
        assert f"\n  {key}=" in text
    for name in presets.names():
        assert f"\n  {name} " in text


@pytest.mark.parametrize(
    "fragment",
    [
        "usage: python -m ray_diffusion.train [PRESET | FILE.yaml | mlflow:RUN_ID]",
        "data.cache_bytes=10GiB",
        "(bytes >= 64MiB)",
        "(4 <= int <= 1024)",
        "(0 < float < 1)",
        "(constant|cosine|linear)",
        "([int >= 1, ...])",
        "(int >= 0 | null)",
        "optim.betas=[0.9,0.99]",
        "(true|false)",
    ],
)
def test_help_states_types_and_bounds(fragment: str):
    assert fragment in run_help("train", None)


@pytest.mark.parametrize("columns", [60, 80, 100, 160])
def test_help_fits_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = run_help("train", "Train a model.").splitlines()
    # Only the options of the usage line and the left column, which must not break, may be wider.
    too_wide = [line for line in lines if len(line) > max(columns, 44 + 36)]
    assert too_wide == []


def test_a_left_column_that_is_too_long_gets_its_own_line(capsys: pytest.CaptureFixture[str]):
    class Request(config.Values):
        url: str = "s3://a-bucket-with-a-rather-long-name/and/a/path"

    with pytest.raises(SystemExit):
        config.request(["-h"], Request, verb="x", doc=None)
    lines = capsys.readouterr().out.splitlines()
    assert "  url=s3://a-bucket-with-a-rather-long-name/and/a/path" in lines


def test_split_flags_keeps_the_order_of_the_rest():
    assert config.split_flags(["b", "--dry-run", "a", "--x"]) == ({"--dry-run"}, ["b", "a", "--x"])


PAGE = """
run: {name: night, seed: 7, allow: [optim.lr]}
optim: {lr: 0.5}
"""


def again(*argv: str, page: str = PAGE) -> config.Config:
    fetch = {"mlflow": lambda word, typed: page}
    return config.command_line(argv, verb="train", doc=None, fetch=fetch).config


def test_a_recorded_run_starts_again_under_another_name_and_with_nothing_allowed():
    found = again("mlflow:abc")
    assert (found.run.seed, found.optim.lr) == (7, 0.5)
    assert found.run.name == "night-again"
    assert found.run.allow == ()


def test_what_is_typed_wins_over_what_is_recorded():
    found = again("run.name=day", "mlflow:abc", "optim.lr=0.1", "run.allow=[optim.betas]")
    assert (found.run.seed, found.optim.lr) == (7, 0.1)
    assert (found.run.name, found.run.allow) == ("day", ("optim.betas",))


def test_a_fetch_is_told_the_word_and_what_is_typed():
    told = []

    def fetch(word: str, typed: Mapping[str, object]) -> str:
        told.append((word, dict(typed)))
        return PAGE

    keys = ["mlflow:abc", "tracking.uri=http://here:5000", "run.seed=3"]
    config.load(keys, {"mlflow": fetch})
    assert told == [("mlflow:abc", {"tracking.uri": "http://here:5000", "run.seed": 3})]


def test_problems_of_a_recorded_config_and_of_the_keys_come_together():
    with pytest.raises(ConfigError) as caught:
        again("mlflow:abc", "optim.lrr=1", page="run:\n  name: night\n  sead: 7\n")
    assert caught.value.problems == [
        "mlflow:abc:3: run.sead: unknown key; did you mean 'run.seed'?",
        "optim.lrr: unknown key; did you mean 'optim.lr'?",
    ]


def test_a_recorded_config_can_be_printed(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        again("mlflow:abc", "--print-config")
    assert config.from_yaml(capsys.readouterr().out, "-") == again("mlflow:abc")


def test_without_a_fetch_a_recorded_run_is_an_unknown_word():
    with pytest.raises(ConfigError, match="'mlflow:abc': neither a preset"):
        command_line("mlflow:abc")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://mlflow:5000", None),
        ("http://me@mlflow:5000", None),
        ("sqlite:////data/mlflow.db", None),
        ("s3://bucket/a:b@c", None),
        ("http://minio:9000/data@v2 me@here", None),
        ('{"uri": "http://mlflow:5000", "by": "me@here"}', None),
        ("http://me:secret@mlflow:5000/x", "http://me:***@mlflow:5000/x"),
        ("http://me:a@b@mlflow", "http://me:***@mlflow"),
        ("http://me:1234@mlflow", "http://me:***@mlflow"),
        ("http://:secret@mlflow", "http://:***@mlflow"),
        ("mysql+pymysql://me:a/b@host/db", "mysql+pymysql://me:***@host/db"),
        ("a http://x:y@z and http://v:w@u.", "a http://x:***@z and http://v:***@u."),
    ],
)
def test_passwords_alone_are_masked(text: str, shown: str | None):
    assert without_passwords(text) == (shown or text)
