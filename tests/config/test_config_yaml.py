import pytest

from ray_diffusion.config import strict_yaml
from ray_diffusion.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1e5", 1e5),
        ("017", 17),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("null", None),
        ("", None),
        ("'1'", "1"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("!tag x", "x"),
        ("=", "="),
        ("[1, 2.5, [a]]", [1, 2.5, ["a"]]),
        ("{a: 1, b: {c: null}}", {"a": 1, "b": {"c": None}}),
    ],
)
def test_values_mean_what_they_say(text: str, value: object):
    read = strict_yaml.parse_value(text, "key")
    assert read == value
    assert type(read) is type(value)


def test_a_document_is_plain_data_with_lines():
    text = "# head\nrun:\n  name: a\n\n  seed: 3\noptim.lr: 0.1\n"
    data, lines = strict_yaml.parse(text, "x.yaml")
    assert data == {"run": {"name": "a", "seed": 3}, "optim.lr": 0.1}
    assert lines == {"run": 2, "run.name": 3, "run.seed": 5, "optim.lr": 6}


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_an_empty_document_is_an_empty_mapping(text: str):
    assert strict_yaml.parse(text, "x.yaml") == ({}, {})


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: 2\na: 3\n", "x.yaml:3: a: given before, on line 1"),
        ("a:\n  b: 1\na.b: 2\n", "x.yaml:3: a.b: given before, on line 2"),
        ("a: 1\nb: [1,\n", "x.yaml:3: not valid YAML: "),
        ("a: b: c\n", "x.yaml:1: not valid YAML: mapping values are not allowed here"),
        ("a: \0", "x.yaml:1: not valid YAML: "),
        ("a: 1\n---\nb: 2\n", "x.yaml:2: not valid YAML: "),
        ("- a\n", "x.yaml:1: the file must consist of `key: value` lines"),
        ("a: &x 1\nb: *x\n", "x.yaml:1: b: aliases are not supported"),
        ("a: &x [*x]\n", "x.yaml:1: a[0]: aliases are not supported"),
        ("? [a]\n: 1\n", "x.yaml:1: a key must be a single word"),
        ("a: !!int x\n", "x.yaml:1: a: invalid literal"),
        (f"a: {'9' * 5000}\n", "x.yaml:1: a: Exceeds the limit"),
        ("a: " + "[" * 5000, "x.yaml:1: nested too deeply"),
    ],
)
def test_what_is_refused_is_named_with_its_line(text: str, line: str):
    with pytest.raises(ConfigError) as caught:
        strict_yaml.parse(text, "x.yaml")
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(line)


@pytest.mark.parametrize(
    ("text", "line"), [("[1", "not valid YAML: "), ("!!int x", "invalid literal for int")]
)
def test_a_value_is_refused_under_its_key(text: str, line: str):
    with pytest.raises(ConfigError, match=rf"^optim\.betas: {line}"):
        strict_yaml.parse_value(text, "optim.betas")


def test_all_problems_of_a_document_are_listed():
    with pytest.raises(ConfigError) as caught:
        strict_yaml.parse("a: 1\na: 2\na: 3\n", "x.yaml")
    assert len(caught.value.problems) == 2


def test_lists_are_written_in_brackets_and_order_is_kept():
    text = strict_yaml.write({"b": {"z": [1, 2], "a": 1e-5}, "a": None})
    assert text == "b:\n  z: [1, 2]\n  a: 1e-05\na: null\n"
