"""How values, keys and mistakes are put into words.

To word a further kind of mistake, add pydantic's name for it to ``WORDS``.
"""

import difflib
from collections.abc import Iterable
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import ByteSize
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

LONGEST_SHOWN: Final = 80  # characters; enough to recognise a value by

WORDS: Final = {
    "bool_type": "{value} is neither true nor false",
    "int_type": "{value} is not a whole number",
    "float_type": "{value} is not a number",
    "finite_number": "{value} is not a finite number",
    "string_type": "{value} is not text",
    "string_too_short": "must not be empty",
    "tuple_type": "{value} is not a list, such as [1, 2]",
    "list_type": "{value} is not a list, such as [1, 2]",
    "dict_type": "{value} is not a mapping",
    "greater_than": "must be above {gt}, got {value}",
    "greater_than_equal": "must be at least {ge}, got {value}",
    "less_than": "must be below {lt}, got {value}",
    "less_than_equal": "must be at most {le}, got {value}",
    "too_short": "needs {min_length} or more items, got {value}",
    "too_long": "takes at most {max_length} items, got {value}",
    "byte_size": "{value} is not a number of bytes, such as 10GiB",
    "byte_size_unit": "{value} is not a number of bytes, such as 10GiB",
    "value_error": "{error}, got {value}",
}


def show(value: object) -> str:
    """A value as a config file would have it, cut off where it gets long.

    >>> print(show(None), show(True), show("a b"), show((1, 0.5)), show(ByteSize(2**30)))
    null true 'a b' [1, 0.5] 1GiB
    """
    match value:
        case None:
            text = "null"
        case bool():
            text = str(value).lower()
        case ByteSize():
            text = show_bytes(value)
        case list() | tuple():
            text = f"[{', '.join(show(item) for item in value)}]"
        case _:
            text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."


def show_bytes(count: int) -> str:
    """A number of bytes in the largest unit that divides it.

    >>> show_bytes(64 * 2**20), show_bytes(1000)
    ('64MiB', '1000B')
    """
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while count and count % 1024 == 0 and len(units) > 1:
        count //= 1024
        del units[0]
    return f"{count}{units[0]}"


def choices(annotation: Any) -> list[str]:
    """The values that a ``Literal`` allows, also where it is part of another type."""
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    return [choice for part in get_args(annotation) for choice in choices(part)]


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The end of a sentence about an unknown word: its nearest neighbour, or nothing.

    >>> did_you_mean("optim.lrr", ["optim.lr", "ema.decay"])
    "; did you mean 'optim.lr'?"
    >>> did_you_mean("decay", ["optim.lr", "ema.decay"])
    "; did you mean 'ema.decay'?"
    """
    known = list(known)
    last = word.rpartition(".")[2]
    # A right name in the wrong section is a likelier slip than a similar name in the right one.
    namesakes = [key for key in known if "." in key and key.rpartition(".")[2] == last]
    near = difflib.get_close_matches(word, namesakes or known, 1, 0 if namesakes else cutoff)
    return f"; did you mean '{near[0]}'?" if near else ""


def explain(error: ErrorDetails, field: FieldInfo, place: tuple[int | str, ...]) -> str:
    """What is wrong with one key's value.

    Args:
        error: What pydantic found.
        field: The key's field.
        place: Where inside the value it was found: empty, or the index of a list's item.

    Returns:
        Plain words with the value given, without the key.
    """
    value = error["input"]
    if error["type"] == "missing":
        return f"needs more items, got {show(value)}" if place else "missing"
    if error["type"] == "literal_error":
        options = choices(field.annotation)
        hint = did_you_mean(str(value), options, cutoff=0.5)  # few and short: 'fp7' is near 'fp32'
        return f"{show(value)} is not one of {', '.join(options)}{hint}"
    say = _say_bytes if field.annotation is ByteSize else _say_number
    limits = {name: say(limit) for name, limit in error.get("ctx", {}).items()}
    template = WORDS.get(error["type"])
    words = template.format(value=show(value), **limits) if template else error["msg"]
    return f"item {place[0] + 1}: {words}" if place and isinstance(place[0], int) else words


def _say_bytes(limit: object) -> object:
    return show_bytes(limit) if isinstance(limit, int) else limit


def _say_number(limit: object) -> object:
    # Pydantic turns the bounds of a float into floats: 0 reads better than 0.0.
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit
