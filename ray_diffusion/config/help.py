"""``--help``, written from the models: what can be typed, and what it means.

The left column is ready to be copied: each key with the value that it has unless told otherwise.
"""

import inspect
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ByteSize
from pydantic.fields import FieldInfo

from ray_diffusion.config import presets
from ray_diffusion.config.schema import Config
from ray_diffusion.config.sweep import Sweep
from ray_diffusion.config.tree import leaves
from ray_diffusion.config.wording import choices, show, show_bytes

FALLBACK_WIDTH: Final = 100  # columns, where the output is not a terminal
WIDEST_LEFT: Final = 40  # columns; a longer entry gets a line of its own
NARROWEST_RIGHT: Final = 24  # columns; a narrower terminal has to wrap by itself
HARD_BLANK: Final = "\0"  # a blank that lines are not broken at, until the page is done

RUN_USAGE: Final = (
    "[PRESET | FILE.yaml | mlflow:RUN_ID]",
    "[key.path=value ...]",
    "[--dry-run | --profile]",
    "[--print-config]",
    "[--help]",
)
RUN_FLAGS: Final = {
    "--dry-run": "Check everything, print the plan, change nothing.",
    "--profile": "Take a few steps, say where their time goes, keep a trace of them.",
    "--print-config": "Print the resolved config as YAML and stop.",
    "--help, -h": "Print this text and stop.",
}
SWEEP_FLAGS: Final = {
    "--dry-run": "Check every trial, print the plan, change nothing.",
    "--promote": "Register the winner, and give it the alias champion if it is better than the "
    "one that has it.",
    "--help": RUN_FLAGS["--help, -h"],
}
REQUEST_FLAGS: Final = {"--help, -h": RUN_FLAGS["--help, -h"]}

TYPE_NAMES: Final = {
    str: "text",
    int: "int",
    float: "float",
    bool: "true|false",
    ByteSize: "bytes",
    type(None): "null",
}


def run_help(verb: str, doc: str | None) -> str:
    """The help of a verb that takes a preset and config keys.

    Args:
        verb: Its name, as in ``train``.
        doc: What it does: its module's docstring.
    """
    tables = {
        f"presets (without one: {presets.DEFAULT})": {
            name: presets.headline(name) for name in presets.names()
        },
        "flags": RUN_FLAGS,
    }
    for section, values in Config():
        tables[f"{section}: {values.__doc__}"] = dict(
            _entry(key, field)
            for key, field in leaves(Config).items()
            if key.startswith(f"{section}.")
        )
    return _page(_usage(verb, RUN_USAGE), doc, tables)


def request_help(
    verb: str, doc: str | None, model: type[BaseModel], positional: Sequence[str] = ()
) -> str:
    """The help of a verb that takes the fields of one flat model.

    Args:
        verb: Its name, as in ``sample``.
        doc: What it does: its module's docstring.
        model: The fields.
        positional: Fields that may be given as bare words.
    """
    words = [_placeholder(name, leaves(model)[name]) for name in positional]
    tables = {
        "keys": dict(_entry(key, field) for key, field in leaves(model).items()),
        "flags": REQUEST_FLAGS,
    }
    return _page(_usage(verb, [*words, "[key=value ...]", "[--help]"]), doc, tables)


def sweep_help(doc: str | None) -> str:
    """The help of the verb that sweeps.

    Args:
        doc: What it does: its module's docstring.
    """
    tables = {
        "keys of FILE.yaml": dict(_entry(key, field) for key, field in leaves(Sweep).items())
        | {
            "parameters:": "What varies, by dotted key of a run's config: {value: X}, "
            "{values: [...]} or {min: ..., max: ..., distribution: uniform|log_uniform|"
            "int_uniform}; a section such as diffusion takes values that are mappings."
        },
        "flags": SWEEP_FLAGS,
    }
    usage = ("FILE.yaml", "[key.path=value ...]", "[--dry-run]", "[--promote]", "[--help]")
    return _page(_usage("sweep", usage), doc, tables)


def _page(usage: str, doc: str | None, tables: Mapping[str, Mapping[str, str]]) -> str:
    widest = max(len(left) for entries in tables.values() for left in entries)
    left_width = min(widest, WIDEST_LEFT)
    blocks = [usage, inspect.cleandoc(doc or "")]
    for title, entries in tables.items():
        rows = (_row(left, right, left_width) for left, right in entries.items())
        blocks.append("\n".join([title, *rows]))
    return "\n\n".join(block for block in blocks if block).replace(HARD_BLANK, " ") + "\n"


class _Wrapper(textwrap.TextWrapper):
    """Breaks lines at blanks, and long lists of choices after a bar."""

    wordsep_simple_re = re.compile(r"(\s+|(?<=\w\|)(?=\w))")


def _row(left: str, right: str, left_width: int) -> str:
    indent = " " * (left_width + 4)
    right_width = max(_terminal_width() - len(indent), NARROWEST_RIGHT)
    lines = _Wrapper(right_width, break_on_hyphens=False).wrap(right)
    if len(left) > left_width or not lines:
        return f"\n{indent}".join([f"  {left}", *lines])
    return f"\n{indent}".join([f"  {left:<{left_width}}  {lines[0]}", *lines[1:]])


def _usage(verb: str, parts: Sequence[str]) -> str:
    start = f"usage: python -m ray_diffusion.{verb} "
    return textwrap.fill(
        " ".join(_unbroken(part) for part in parts),
        _terminal_width(),
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_on_hyphens=False,
        break_long_words=False,
    )


def _unbroken(text: str) -> str:
    return text.replace(" ", HARD_BLANK)


def _terminal_width() -> int:
    return shutil.get_terminal_size((FALLBACK_WIDTH, 24)).columns


def _placeholder(name: str, field: FieldInfo) -> str:
    takes_all = get_origin(field.annotation) in (tuple, list)
    text = f"{name.upper()} ..." if takes_all else name.upper()
    return text if field.is_required() else f"[{text}]"


def _entry(key: str, field: FieldInfo) -> tuple[str, str]:
    kind = _kind(field.annotation, field.metadata)
    if field.is_required():
        return key, _meaning(field, f"({kind}; required)")
    default = field.get_default(call_default_factory=True, validated_data={})
    # On a command line a text needs no quotes, and a blank would.
    typed = default if isinstance(default, str) else show(default).replace(", ", ",")
    return f"{key}={typed}", _meaning(field, f"({kind})")


def _meaning(field: FieldInfo, facts: str) -> str:
    return f"{field.description or ''} {_unbroken(facts)}".lstrip()


def _kind(annotation: Any, limits: Sequence[Any] = ()) -> str:
    """A type with its bounds, as in ``0 <= float < 1``."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(parts[0], [*parts[1:], *limits])
    if origin is Literal:
        return "|".join(choices(annotation))
    if origin in (tuple, list):
        return f"[{', '.join('...' if part is Ellipsis else _kind(part) for part in parts)}]"
    if parts:
        return " | ".join(_kind(part) for part in parts)
    return _bounded(TYPE_NAMES.get(annotation, "value"), limits)


def _bounded(name: str, limits: Sequence[Any]) -> str:
    say: Callable[[Any], str] = show_bytes if name == TYPE_NAMES[ByteSize] else str
    low, low_sign, high = "", "", ""
    for limit in _unpacked(limits):
        match limit:
            case Ge(bound):
                low, low_sign = say(bound), "="
            case Gt(bound):
                low, low_sign = say(bound), ""
            case Le(bound):
                high = f" <= {say(bound)}"
            case Lt(bound):
                high = f" < {say(bound)}"
    if low and high:
        return f"{low} <{low_sign} {name}{high}"
    return f"{name} >{low_sign} {low}" if low else f"{name}{high}"


def _unpacked(limits: Sequence[Any]) -> Iterator[Any]:
    for limit in limits:
        # Within Annotated a Field stays whole; of a model's own fields pydantic takes it apart.
        yield from limit.metadata if isinstance(limit, FieldInfo) else [limit]
