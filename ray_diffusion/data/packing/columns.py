"""What a table's columns are called, and what its cells say about an image."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ray_diffusion.config.wording import did_you_mean
from ray_diffusion.data.packing.records import SPLIT_WORDS, Found
from ray_diffusion.errors import DataError, UsageError


class Columns(NamedTuple):
    """Names of columns; None: a common name, if there is one.

    Attributes:
        image: The image, or its path or URL.
        label: Its class, a name or a number.
        caption: A text about it.
        key: Its name in the dataset, unique and without dots and slashes.
        split: Train, val or test.
        group: Images of one group share a split.
    """

    image: str | None = None
    label: str | None = None
    caption: str | None = None
    key: str | None = None
    split: str | None = None
    group: str | None = None


COMMON = {
    "image": ("image", "path", "file", "file_name", "filename", "url"),
    "label": ("label", "class", "class_name"),
    "caption": ("caption", "text"),
    "key": ("key", "id"),
    "split": ("split",),
    "group": ("group",),
}
COMMON_NAMES = Columns()


def named(columns: Columns, there: Sequence[str], table: str) -> tuple[str, Columns]:
    """The columns of a table: those asked for, else those with a common name, in any case.

    Args:
        columns: The names asked for.
        there: The names that the table has.
        table: What to call it in front of the user.

    Returns:
        The column of images; and those that say something about them, without that one.

    Raises:
        UsageError: If it lacks a column asked for, or has none of images.
    """
    has = f"it has {', '.join(there)}" if there else "it is empty"
    common = {name.lower(): name for name in reversed(there)}
    found: dict[str, str | None] = {}
    for role, asked in columns._asdict().items():
        if asked is None:
            found[role] = next((common[name] for name in COMMON[role] if name in common), None)
        elif asked in there:
            found[role] = asked
        else:
            hint = did_you_mean(asked, there)
            raise UsageError(f"{role}_column: {table} has no column '{asked}'; {has}{hint}")
    if found["image"] is None:
        raise UsageError(
            f"{table} has no column {', '.join(COMMON['image'])}: {has}; "
            "say which one with image_column="
        )
    return found["image"], Columns(**(found | {"image": None}))


def text(cell: Any) -> str | None:
    """A cell as text; None if it is empty.

    >>> text(" a "), text(7.0), text(""), text(float("nan"))
    ('a', '7', None, None)

    Raises:
        TypeError: If it holds anything but text or a number.
    """
    if isinstance(cell, float):  # whole numbers become floats where a column has gaps
        cell = None if math.isnan(cell) else int(cell) if cell.is_integer() else cell
    if cell is not None and not isinstance(cell, str | int | float):
        raise TypeError(f"holds a {type(cell).__name__}, not a text or number")
    return None if cell is None else str(cell).strip() or None


def described(row: Mapping[str, Any], columns: Columns, found: Found) -> Found:
    """An image with what a row says about it.

    Args:
        row: Cells by name of the column.
        columns: As ``named`` returns them.
        found: What is known of the image so far; stays where the row says nothing.

    Returns:
        The image.

    Raises:
        DataError: If a cell cannot be what it should be.
    """
    cells: dict[str, Any] = {}
    for role, name in zip(Columns._fields, columns, strict=True):
        if name is None:
            continue
        try:
            cells[role] = text(row.get(name))
        except TypeError as error:
            raise DataError(f"{found.where}: column '{name}' {error}") from error
    if "key" in cells:
        cells["key"] = _checked_key(cells["key"], found.where)
    if cells.get("split") is not None:
        cells["split"] = _checked_split(str(cells["split"]), found.where)
    return found._replace(**cells)


def _checked_key(key: str | None, where: str) -> str:
    if key is None:
        raise DataError(f"{where} has no key")
    if "." in key or "/" in key:
        raise DataError(
            f"{where} has key '{key}': keys have no dots or slashes, because webdataset cuts names "
            "at the first dot"
        )
    return key


def _checked_split(split: str, where: str) -> str:
    if split.lower() not in SPLIT_WORDS:
        raise DataError(f"{where} has split '{split}', which is none of {', '.join(SPLIT_WORDS)}")
    return SPLIT_WORDS[split.lower()]
