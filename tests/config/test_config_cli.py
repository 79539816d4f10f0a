import pytest

from ray_diffusion import config
from ray_diffusion.config import presets
from ray_diffusion.config.help import run_help
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
        "usage: python -m ray_diffusion.train [PRESET | FILE.yaml] [key.path=value ...]",
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
