"""Tables that name image files, a row each: CSV, TSV, JSON lines or Parquet."""

import csv
import io
import json
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from ray_diffusion.data.packing.columns import Columns, described, named, text
from ray_diffusion.data.packing.folders import load_file
from ray_diffusion.data.packing.records import Found, key_of, source_of
from ray_diffusion.data.packing.source import Source
from ray_diffusion.errors import DataError
from ray_diffusion.storage import Directory, absolute

Row = tuple[int, Mapping[str, Any]]  # line or row number, cells by column


class Table(NamedTuple):
    """A table before its rows are read.

    Attributes:
        columns: What its columns are called.
        rows: Its rows, with the cells of those columns at least that it is asked for.
    """

    columns: Sequence[str]
    rows: Callable[[Sequence[str]], Iterator[Row]]


def table(location: str, columns: Columns) -> Source:
    """The images that a table names.

    Args:
        location: A path or URL whose extension is a key of ``FORMATS``. Relative paths of images
            start from its directory.
        columns: Names of its columns.

    Returns:
        The source.

    Raises:
        UsageError: If the table lacks a column.
        DataError: If there is no such table, or it cannot be parsed, or a row cannot be used.
        StorageError: If it cannot be read.
    """
    base, _, name = absolute(location).rpartition("/")
    content = Directory(base or "/").read(name)
    if content is None:
        raise DataError(f"{location} does not exist")
    parsed = FORMATS[name.rpartition(".")[2].lower()](content, location)
    image, about = named(columns, parsed.columns, location)
    wanted = [image, *(column for column in about if column is not None)]
    found = (_found(row, image, about, f"{location}:{n}") for n, row in parsed.rows(wanted))
    return source_of(location, found, partial(load_file, base))


def _found(row: Mapping[str, Any], image: str, about: Columns, where: str) -> Found:
    try:
        path = text(row.get(image))
    except TypeError as error:
        raise DataError(f"{where}: column '{image}' {error}, but no path") from error
    if path is None:
        raise DataError(f"{where} names no image: column '{image}' is empty")
    return described(row, about, Found(where, key_of(posixpath.splitext(path)[0]), path))


def _delimited(content: bytes, where: str, dialect: str) -> Table:
    file = io.StringIO(_decoded(content, where), newline="")
    reader = csv.DictReader(file, dialect=dialect, strict=True)

    def rows(_: Sequence[str]) -> Iterator[Row]:
        try:
            for row in reader:
                if None in row:
                    raise DataError(f"{where}:{reader.line_num} has more cells than columns")
                yield reader.line_num, row
        except csv.Error as error:
            raise DataError(f"{where}:{reader.line_num + 1}: {error}") from error

    return Table(reader.fieldnames or (), rows)


def _decoded(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{where}:{line} is not UTF-8: {error.reason}") from error


def _json_lines(content: bytes, where: str) -> Table:
    def rows(_: Sequence[str] = ()) -> Iterator[Row]:
        for number, line in enumerate(content.splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{where}:{number} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise DataError(f"{where}:{number} is not a JSON object")
            yield number, row

    # Twice through the text rather than all rows in memory: any row may bring a further column.
    return Table(list(dict.fromkeys(column for _, row in rows() for column in row)), rows)


def _parquet(content: bytes, where: str) -> Table:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    damaged = (pyarrow.ArrowException, OSError)
    try:
        file = ParquetFile(io.BytesIO(content))
    except damaged as error:
        raise DataError(f"{where} is not Parquet: {_one_line(error)}") from error

    def rows(wanted: Sequence[str]) -> Iterator[Row]:
        number = 0
        try:
            for batch in file.iter_batches(columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except damaged as error:
            why = _one_line(error)
            raise DataError(f"{where} is damaged behind row {number}: {why}") from error

    return Table(file.schema_arrow.names, rows)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


FORMATS: dict[str, Callable[[bytes, str], Table]] = {
    "csv": partial(_delimited, dialect="excel"),
    "tsv": partial(_delimited, dialect="excel-tab"),
    "jsonl": _json_lines,
    "parquet": _parquet,
}
