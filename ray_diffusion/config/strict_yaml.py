"""YAML 1.2 without its surprises: ``1e-4`` is a number, ``no`` is text, a key is given once.

Documents are walked node by node rather than loaded whole: only nodes know their lines, and only
there can aliases be refused and dates and unknown tags be read as the text that they are.
"""

import io
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.representer import SafeRepresenter

from ray_diffusion.errors import ConfigError

_NUMBERS_AND_WORDS: Final = {
    f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float")
}


class Document(NamedTuple):
    """A YAML mapping as plain data, and the line of each dotted key in it."""

    data: dict[str, Any]
    lines: dict[str, int]


def parse(text: str, source: str) -> Document:
    """Read a document whose outermost level is a mapping.

    Args:
        text: The document; an empty one is an empty mapping.
        source: What to call it in problems, such as its path.

    Returns:
        Its data and lines.

    Raises:
        ConfigError: If it is not YAML, not a mapping, or uses what the module refuses; each problem
            begins with ``source:line:``.
    """
    reader = _Reader(source)
    data = reader.read(text)
    if data is None and not reader.problems:
        data = {}
    if not isinstance(data, dict) and not reader.problems:
        reader.problems.append(f"{source}:1: the file must consist of `key: value` lines")
    if reader.problems:
        raise ConfigError(reader.problems)
    return Document(data, reader.lines)


def parse_value(text: str, source: str) -> Any:
    """Read one value: a scalar, or a list or mapping in brackets.

    Raises:
        ConfigError: If it is not YAML; the problem begins with ``source:``.
    """
    reader = _Reader(source)
    data = reader.read(text)
    if reader.problems:
        # A value is one line long: its line number says nothing.
        raise ConfigError(
            [line.replace(f"{source}:1:", f"{source}:", 1) for line in reader.problems]
        )
    return data


def write(data: Mapping[str, Any]) -> str:
    """YAML text of plain data, in its order, that ``parse`` reads back to the same data."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _ListsInBrackets
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 2**20  # never fold: one key, one line
    stream = io.StringIO()
    yaml.dump(dict(data), stream)
    return stream.getvalue()


class _ListsInBrackets(SafeRepresenter):
    def represent_sequence(self, tag: Any, sequence: Any, flow_style: Any = None) -> Any:
        return super().represent_sequence(tag, sequence, flow_style=True)


class _Reader:
    """Turns nodes into plain data and gathers lines and problems on the way."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines: dict[str, int] = {}
        self.problems: list[str] = []
        self._seen: set[int] = set()
        self._yaml = YAML(typ="safe", pure=True)

    def read(self, text: str) -> Any:
        try:
            node = self._yaml.compose(io.StringIO(text))
        except YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            what = getattr(error, "problem", None) or "not plain text"
            self._report(mark.line if mark else 0, "", f"not valid YAML: {what}")
            return None
        except RecursionError:
            self._report(0, "", "nested too deeply")
            return None
        return None if node is None else self._value(node, "")

    def _report(self, line: int, key: str, problem: str) -> None:
        subject = f"{key}: " if key else ""
        self.problems.append(f"{self.source}:{line + 1}: {subject}{problem}")

    def _value(self, node: Node, key: str) -> Any:
        # An alias makes the same node appear twice; following them could never end.
        if id(node) in self._seen:
            self._report(node.start_mark.line, key, "aliases are not supported")
            return None
        self._seen.add(id(node))
        match node:
            case MappingNode():
                return self._mapping(node, key)
            case SequenceNode():
                return [self._value(item, f"{key}[{i}]") for i, item in enumerate(node.value)]
            case ScalarNode():
                return self._scalar(node, key)

    def _mapping(self, node: MappingNode, prefix: str) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for name, value in node.value:
            line = name.start_mark.line
            if not isinstance(name, ScalarNode):
                self._report(line, prefix, "a key must be a single word")
                continue
            key = f"{prefix}.{name.value}" if prefix else name.value
            if key in self.lines:
                self._report(line, key, f"given before, on line {self.lines[key]}")
                continue
            self.lines[key] = line + 1
            data[name.value] = self._value(value, key)
        return data

    def _scalar(self, node: ScalarNode, key: str) -> Any:
        if node.tag not in _NUMBERS_AND_WORDS:
            return node.value
        try:
            return self._yaml.constructor.construct_object(node)
        except ValueError as error:  # `!!int x`, or more digits than Python converts
            self._report(node.start_mark.line, key, str(error))
            return None
