from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_diffusion import config
from ray_diffusion.config import presets
from ray_diffusion.config.schema import Config
from ray_diffusion.errors import ConfigError

# Values of every kind, each inside the bounds, none that breaks a rule.
OVERRIDES = st.fixed_dictionaries(
    {},
    optional={
        "run.name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True),
        "run.seed": st.integers(0, 2**31 - 1),
        "run.storage_url": st.text(min_size=1).filter(str.isprintable),
        "data.horizontal_flip": st.booleans(),
        "data.cache_bytes": st.integers(2**26, 2**50),
        "optim.lr": st.floats(1e-12, 1e6),
        "optim.betas": st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)).map(list),
        "optim.lr_schedule": st.sampled_from(["constant", "cosine", "linear"]),
        "model.num_classes": st.none() | st.integers(0, 1000),
        "tracking.uri": st.none() | st.text().filter(str.isprintable),
    },
)


def problems_of(*argv: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.load(argv)
    return caught.value.problems


def test_no_arguments_mean_the_digits_preset():
    assert config.load([]) == config.load(["digits"])


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_loads_and_has_a_headline(name: str):
    assert config.load([name])
    assert presets.headline(name)


def test_overrides_beat_the_file_and_the_file_beats_defaults(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("optim:\n  lr: 0.5\n  weight_decay: 0.25\n")
    run = config.load(["optim.lr=0.125", str(file)])
    assert (run.optim.lr, run.optim.weight_decay, run.optim.grad_clip) == (0.125, 0.25, 1.0)


def test_a_flag_takes_the_next_word_unless_that_is_a_setting_itself():
    assert config.load(["--optim.lr", "0.5", "digits"]).optim.lr == 0.5
    assert config.load(["--data.horizontal-flip", "digits"]).data.horizontal_flip
    assert problems_of("--optim.lr", "--x", "--run.seed", "optim.lr=1") == [
        "--optim.lr: needs a value, as in --optim.lr=VALUE",
        "--x: unknown flag",
        "--run.seed: needs a value, as in --run.seed=VALUE",
    ]


def test_the_last_of_two_overrides_wins():
    assert config.load(["run.seed=1", "run.seed=2"]).run.seed == 2


@pytest.mark.parametrize(
    ("argument", "key", "value"),
    [
        ("model.channel_mults=[1,2,4]", "model.channel_mults", [1, 2, 4]),
        ("optim.lr=1e-4", "optim.lr", 1e-4),
        ("--optim.lr=1e-4", "optim.lr", 1e-4),
        ("training.total_images=1e6", "training.total_images", 1_000_000),
        ("data.cache_bytes=1GiB", "data.cache_bytes", 2**30),
        ("model.num_classes=null", "model.num_classes", None),
        ("tracking.uri=null", "tracking.uri", None),
        ("tracking.uri=", "tracking.uri", None),
        ("tracking.uri=http://h:1/?a=b#c", "tracking.uri", "http://h:1/?a=b#c"),
        ("run.name=007", "run.name", "007"),
        ("run.name=1e5", "run.name", "1e5"),
        ("run.name=true", "run.name", "true"),
        ("run.name='quoted'", "run.name", "quoted"),
        ("--data.horizontal_flip", "data.horizontal_flip", True),
        ("--data.horizontal-flip", "data.horizontal_flip", True),
        ("optim={lr: 0.5}", "optim.lr", 0.5),
    ],
)
def test_overrides_are_read_as_typed(argument: str, key: str, value: object):
    assert config.flatten(config.load([argument]))[key] == value


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("optim.lrr=1", "optim.lrr: unknown key; did you mean 'optim.lr'?"),
        ("lr=1", "lr: unknown key; did you mean 'optim.lr'?"),
        ("training.lr=1", "training.lr: unknown key; did you mean 'optim.lr'?"),
        ("qqqq=1", "qqqq: unknown key"),
        ("optim.lr.x=1", "optim.lr.x: unknown key; did you mean 'optim.lr'?"),
        ("optim=3", "optim: a section, not a key; set a key in it, such as optim.lr"),
        ("optim=", "optim: a section, not a key; set a key in it, such as optim.lr"),
        ("=3", "=3: no key before the '='"),
        ("--=3", "--=3: no key before the '='"),
        ("--dry-rn", "--dry-rn: unknown flag; did you mean '--dry-run'?"),
        ("-x", "-x: unknown flag"),
        ("--optim.lr", "--optim.lr: needs a value, as in --optim.lr=VALUE"),
        ("optim.lr", "optim.lr: needs a value, as in optim.lr=VALUE"),
        ("optim.lr=", "optim.lr: null is not a number"),
        ("optim.lr=fast", "optim.lr: 'fast' is not a number"),
        ("optim.lr=0", "optim.lr: must be above 0, got 0"),
        ("optim.lr=.inf", "optim.lr: inf is not a finite number"),
        ("optim.lr={a: 1}", "optim.lr: {'a': 1} is not a number"),
        ("optim.betas=[0.9]", "optim.betas: needs more items, got [0.9]"),
        ("optim.betas=[0,0,0]", "optim.betas: takes at most 2 items, got [0, 0, 0]"),
        ("optim.betas=[0.9,1]", "optim.betas: item 2: must be below 1, got 1"),
        ("model.channel_mults=2", "model.channel_mults: 2 is not a list, such as [1, 2]"),
        ("model.channel_mults=[]", "model.channel_mults: needs 1 or more items, got []"),
        ("data.image_size=4096", "data.image_size: must be at most 1024, got 4096"),
        ("data.horizontal_flip=yes", "data.horizontal_flip: 'yes' is neither true nor false"),
        ("data.cache_bytes=1MiB", "data.cache_bytes: must be at least 64MiB, got '1MiB'"),
        ("data.cache_bytes=9XB", "data.cache_bytes: '9XB' is not a number of bytes, such as 10GiB"),
        ("data.dataset_url=''", "data.dataset_url: must not be empty"),
        ("run.seed=true", "run.seed: true is not a whole number"),
        ("run.name=", "run.name: null is not text"),
        (
            "run.name=a/b",
            "run.name: must be 1 to 100 letters, digits, dots, dashes or underscores, "
            "the first a letter or digit, got 'a/b'",
        ),
        (
            "training.precision=fp7",
            "training.precision: 'fp7' is not one of fp32, bf16; did you mean 'fp32'?",
        ),
        ("no/such.yaml", "no/such.yaml: cannot be read: No such file or directory"),
    ],
)
def test_a_mistake_is_one_plain_line(argument: str, line: str):
    assert problems_of(argument) == [line]


def test_an_unknown_preset_shows_the_nearest_and_all_others():
    names = ", ".join(presets.names())
    assert problems_of("digts") == [
        f"'digts': neither a preset ({names}) nor a file ending in .yaml; did you mean 'digits'?"
    ]


def test_a_second_preset_is_one_word_too_many():
    assert problems_of("digits", "run.seed=1", "x") == ["'x': one word too many after 'digits'"]


def test_all_mistakes_are_listed_at_once(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("optim:\n  lrr: 1\n\ntraining:\n  precision: fp7\nmodel:\n  channels: 12\n")
    assert problems_of(str(file), "surplus", "run.sed=1", "--optim.betas", "ema.decay=2") == [
        f"{file}:2: optim.lrr: unknown key; did you mean 'optim.lr'?",
        "run.sed: unknown key; did you mean 'run.seed'?",
        "--optim.betas: needs a value, as in --optim.betas=VALUE",
        f"'surplus': one word too many after '{file}'",
        "ema.decay: must be below 1, got 2",
        f"{file}:5: training.precision: 'fp7' is not one of fp32, bf16; did you mean 'fp32'?",
        f"{file}:7: model.channels: must be a multiple of 8, got 12",
    ]


def test_a_wrong_value_in_a_file_does_not_count_once_overridden(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("training: {precision: fp7}\n")
    assert config.load([str(file), "training.precision=bf16"]).training.precision == "bf16"


def test_a_section_in_a_file_may_have_all_its_keys_commented_out(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("optim:\n  # lr: 1\nrun: {}\n")
    assert config.load([str(file), "run.seed=1"]).run.seed == 1


@pytest.mark.parametrize("section", ["optim: 3", "optim: [1]"])
def test_a_section_in_a_file_must_be_a_mapping(tmp_path: Path, section: str):
    file = tmp_path / "mine.yml"
    file.write_text(f"\n{section}\n")
    line = "a section, not a key; set a key in it, such as optim.lr"
    assert problems_of(str(file)) == [f"{file}:2: optim: {line}"]


def test_a_broken_file_is_one_problem_beside_the_others(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_bytes(b"a: [\n")
    assert len(problems_of(str(file), "run.sed=1")) == 2
    file.write_bytes(b"\xff\xfe\xfa")
    assert problems_of(str(file)) == [f"{file}: cannot be read: not UTF-8 text"]


@given(OVERRIDES)
def test_what_dump_writes_from_yaml_and_load_read_back(values: dict[str, object]):
    run = config.override(Config(), values)
    text = config.dump(run)
    assert config.from_yaml(text, "config.yaml") == run
    assert list(config.parse_yaml(text, "config.yaml").data) == list(Config.model_fields)


@pytest.mark.parametrize("character", ["\x85", "\n", "\x00", "\u2028"])
def test_text_with_characters_that_no_location_has_is_a_problem(character: str):
    with pytest.raises(ConfigError) as caught:
        config.override(Config(), {"run.storage_url": f"runs{character}"})
    [problem] = caught.value.problems
    assert problem.startswith("run.storage_url: must not hold control characters")


def test_dump_can_be_loaded_as_a_file(tmp_path: Path):
    run = config.load(["optim.lr=1e-5", "run.name=1e5"])
    (tmp_path / "config.yaml").write_text(config.dump(run))
    assert config.load([str(tmp_path / "config.yaml")]) == run


def test_from_yaml_names_its_source():
    with pytest.raises(ConfigError, match=r"^s3://b/config\.yaml:1: optim\.lrr: unknown key"):
        config.from_yaml("optim: {lrr: 1}", "s3://b/config.yaml")


def test_override_refuses_what_the_command_line_refuses():
    with pytest.raises(ConfigError) as caught:
        config.override(Config(), {"optim.lrr": 1, "optim.lr": -1, "model.channels": 12})
    assert len(caught.value.problems) == 3


def test_override_takes_whole_floats_as_samplers_give_them():
    assert config.override(Config(), {"training.total_images": 1e6}).training.total_images == 10**6
