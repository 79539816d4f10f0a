"""From the words of a command line, or a text, to a checked config.

Precedence is defaults, then the preset or file, then ``key=value``, whatever their order.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, get_origin

from pydantic import BaseModel

from ray_diffusion.config import presets, rules, strict_yaml
from ray_diffusion.config.gathering import Gathering, key_of_flag
from ray_diffusion.config.schema import Config
from ray_diffusion.config.tree import flatten, leaves, nest
from ray_diffusion.config.wording import did_you_mean

FLAGS: Final = ("--dry-run", "--profile", "--print-config", "--help")

M = TypeVar("M", bound=BaseModel)

Fetch = Callable[[str, Mapping[str, Any]], str]
"""Brings the YAML text of a run's config, given its word and the values typed beside it."""


def load(argv: Sequence[str], fetch: Mapping[str, Fetch] | None = None) -> Config:
    """The config of a run from ``[PRESET | FILE.yaml | SCHEME:RUN] [key.path=value ...]``.

    Args:
        argv: The arguments, without the flags; see ``split_flags``.
        fetch: By scheme, how to get the config of a run that is recorded elsewhere. The config is
            then of a new run, NAME-again unless it is named, to which nothing is allowed yet.

    Raises:
        ConfigError: With every problem at once.
    """
    words, settings = _split_words(_joined(argv, Config))
    keys = [word for word in words if word in leaves(Config)]
    base, *surplus = [word for word in words if word not in keys] or [presets.DEFAULT]
    gathering = Gathering(Config, FLAGS)
    scheme = base.partition(":")[0]
    if fetch and scheme in fetch:
        _add_recorded(gathering, base, settings, fetch[scheme])
    else:
        _add_base(gathering, base)
    gathering.add_arguments(settings)
    for word in keys:
        gathering.lacks_value(word)
    for word in surplus:
        gathering.problems.append(f"'{word}': one word too many after '{base}'")
    return gathering.build(rules.broken)


def parse(
    argv: Sequence[str],
    model: type[M],
    positional: Sequence[str] = (),
    flags: Collection[str] = ("--help",),
) -> M:
    """Any model from ``[WORD ...] [key=value ...]``.

    Args:
        argv: The arguments, without the flags.
        model: What to build; ``--name`` alone sets its bool field ``name``.
        positional: Fields that bare words fill, in this order. One whose type is a tuple or a list
            takes all that are left.
        flags: Flags that the caller takes, to suggest for a mistyped one.

    Raises:
        ConfigError: With every problem at once.
    """
    words, settings = _split_words(_joined(argv, model))
    gathering = Gathering(model, flags)
    gathering.add_arguments(settings)
    for name in positional:
        takes_all = get_origin(leaves(model)[name].annotation) in (tuple, list)
        taken, words = (words, []) if takes_all else (words[:1], words[1:])
        if taken and name in gathering.values:
            gathering.problems.append(f"{name}: given twice, as '{taken[0]}' and as {name}=")
        elif taken and takes_all:
            gathering.put(name, taken)
        elif taken:
            gathering.put_text(name, taken[0])
    for word in words:
        if word in leaves(model):
            gathering.lacks_value(word)
        else:
            gathering.problems.append(f"'{word}': one word too many")
    return gathering.build()


def from_yaml(text: str, source: str) -> Config:
    """The config that ``dump`` wrote.

    Args:
        text: The YAML text.
        source: What to call it in problems, such as its URL.

    Raises:
        ConfigError: With every problem at once.
    """
    gathering = Gathering(Config)
    gathering.add_text(text, source)
    return gathering.build(rules.broken)


def override(config: Config, values: Mapping[str, Any]) -> Config:
    """A config with some dotted keys changed, as checked as one from the command line.

    >>> override(Config(), {"optim.lr": 0.01}).optim.lr
    0.01

    Raises:
        ConfigError: With every problem at once.
    """
    gathering = Gathering(Config)
    for key, value in (flatten(config) | dict(values)).items():
        gathering.put(key, value)
    return gathering.build(rules.broken)


def dump(config: BaseModel) -> str:
    """YAML text that ``from_yaml`` and the command line read back to the same config."""
    return strict_yaml.write(nest(flatten(config)))


def split_flags(argv: Sequence[str], known: Collection[str] = FLAGS) -> tuple[set[str], list[str]]:
    """Part the flags of a command line from the rest.

    >>> flags, rest = split_flags(["digits", "-h", "run.seed=1", "--dry-run"])
    >>> sorted(flags), rest
    (['--dry-run', '--help'], ['digits', 'run.seed=1'])
    """
    spelt_out = ["--help" if argument == "-h" else argument for argument in argv]
    flags = {argument for argument in spelt_out if argument in known}
    return flags, [argument for argument in spelt_out if argument not in flags]


def _joined(argv: Sequence[str], model: type[BaseModel]) -> list[str]:
    """The arguments, with ``--KEY WORD`` as ``--KEY=WORD`` for each key that takes a value."""
    takes = {key for key, field in leaves(model).items() if field.annotation is not bool}
    joined: list[str] = []
    for argument in argv:
        if joined and key_of_flag(joined[-1]) in takes and not _is_setting(argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _split_words(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    words = [argument for argument in argv if not _is_setting(argument)]
    return words, [argument for argument in argv if _is_setting(argument)]


def _is_setting(argument: str) -> bool:
    return "=" in argument or argument.startswith("-")


def _add_recorded(
    gathering: Gathering[Config], word: str, settings: Sequence[str], fetch: Fetch
) -> None:
    typed = Gathering(Config)
    typed.add_arguments(settings)
    gathering.add_text(fetch(word, typed.values), word)
    name = gathering.values.get("run.name", Config().run.name)
    gathering.values |= {"run.name": f"{name}-again", "run.allow": ()}


def _add_base(gathering: Gathering[Config], word: str) -> None:
    names = presets.names()
    if word.endswith((".yaml", ".yml")):
        gathering.add_file(Path(word))
    elif word in names:
        gathering.add_file(presets.path(word))
    else:
        gathering.problems.append(
            f"'{word}': neither a preset ({', '.join(names)}) nor a file ending in .yaml"
            f"{did_you_mean(word, names)}"
        )
