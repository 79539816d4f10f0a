"""Values for one model from files and arguments, and every problem met on the way."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Generic, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ray_diffusion.config import strict_yaml
from ray_diffusion.config.tree import leaves, nest
from ray_diffusion.config.wording import did_you_mean, explain
from ray_diffusion.errors import ConfigError

M = TypeVar("M", bound=BaseModel)
Check = Callable[[M, Collection[str]], Iterable[tuple[str, str]]]


class Gathering(Generic[M]):
    """Collects values under dotted keys, later ones winning, and builds the model from them.

    Nothing is raised before ``build``, so that one attempt shows the user every mistake.

    Args:
        model: The model to build.
        flags: Spellings such as ``--dry-run`` that the caller takes; only for "did you mean".
    """

    def __init__(self, model: type[M], flags: Collection[str] = ()) -> None:
        self.values: dict[str, Any] = {}
        self.problems: list[str] = []
        self._model = model
        self._leaves = leaves(model)
        self._flags = [*flags, *(_as_flag(key, field) for key, field in self._leaves.items())]
        self._places: dict[str, str] = {}  # key -> 'file.yaml:7: ', for values from a file

    def add_file(self, path: Path) -> None:
        """Take the values of a YAML file."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            self.problems.append(f"{path}: cannot be read: {reason}")
        else:
            self.add_text(text, str(path))

    def add_text(self, text: str, source: str) -> None:
        """Take the values of a YAML document."""
        try:
            data, lines = strict_yaml.parse(text, source)
        except ConfigError as error:
            self.problems += error.problems
        else:
            places = {key: f"{source}:{line}: " for key, line in lines.items()}
            for key, value in data.items():
                self.put(key, value, places)

    def add_arguments(self, arguments: Sequence[str]) -> None:
        """Take every ``key=value``, ``--key=value`` and ``--switch``."""
        for argument in arguments:
            key, equals, text = argument.partition("=")
            if not equals:
                self._switch_on(argument)
            elif key := key_of_flag(key) or key.removeprefix("--"):
                self.put_text(key, text)
            else:
                self.problems.append(f"{argument}: no key before the '='")

    def put(self, key: str, value: Any, places: Mapping[str, str] | None = None) -> None:
        """Set one key, or several where the value is a mapping.

        Args:
            key: Dotted key.
            value: Plain data.
            places: Where each key is written, for problems.
        """
        places = places or {}
        if key in self._leaves:
            self.values[key] = value
            self._places[key] = places.get(key, "")
            return
        if isinstance(value, Mapping) and value:
            for name, inner in value.items():
                self.put(f"{key}.{name}", inner, places)
            return
        inside = next((leaf for leaf in self._leaves if leaf.startswith(f"{key}.")), None)
        if inside is None:
            self._blame(key, f"unknown key{did_you_mean(key, self._leaves)}", places)
        elif value not in (None, {}) or not places:  # a file may leave a section empty
            self._blame(key, f"a section, not a key; set a key in it, such as {inside}", places)

    def put_text(self, key: str, text: str) -> None:
        """Set one key to what was typed: as it stands for a text, else read as YAML."""
        field = self._leaves.get(key)
        # Texts such as 007 or a URL with brackets mean themselves; quotes and null work as in YAML.
        if field and _is_text(field) and text[:1] not in ("", "'", '"') and text != "null":
            self.put(key, text)
            return
        try:
            self.put(key, strict_yaml.parse_value(text, key))
        except ConfigError as error:
            self.problems += error.problems

    def lacks_value(self, word: str) -> None:
        """Note that a key was given without a value."""
        self.problems.append(f"{word}: needs a value, as in {word}=VALUE")

    def build(self, check: Check[M] | None = None) -> M:
        """The model of all values.

        Args:
            check: Finds broken rules in a model, given the keys whose value is not the user's.

        Raises:
            ConfigError: With all problems, if there are any.
        """
        model, failing = self._validate()
        if model is not None and check is not None:
            for key, problem in check(model, failing):
                self._blame(key, problem)
        if self.problems or model is None:
            raise ConfigError(self.problems)
        return model

    def _validate(self) -> tuple[M | None, set[str]]:
        try:
            return self._model.model_validate(nest(self.values)), set()
        except ValidationError as error:
            failing = self._report(error)
        # The rest is still worth checking, so let defaults stand in for what failed.
        rest = {key: value for key, value in self.values.items() if key not in failing}
        try:
            return self._model.model_validate(nest(rest)), failing
        except ValidationError:
            return None, failing

    def _report(self, error: ValidationError) -> set[str]:
        failing: set[str] = set()
        for detail in error.errors(include_url=False):
            place = detail["loc"]
            depths = range(1, len(place) + 1)
            paths = {".".join(map(str, place[:depth])): place[depth:] for depth in depths}
            key = next((path for path in paths if path in self._leaves), "")
            if key and key not in failing:
                self._blame(key, explain(detail, self._leaves[key], paths[key]))
            elif not key:  # a validator of the whole model
                self.problems.append(str(detail.get("ctx", {}).get("error", detail["msg"])))
            failing.add(key)
        return failing

    def _blame(self, key: str, problem: str, places: Mapping[str, str] | None = None) -> None:
        place = (self._places if places is None else places).get(key, "")
        self.problems.append(f"{place}{key}: {problem}")

    def _switch_on(self, argument: str) -> None:
        key = key_of_flag(argument) or argument
        if key in self._leaves and _is_switch(self._leaves[key]):
            self.put(key, True)
        elif key in self._leaves:
            self.lacks_value(argument)
        else:
            hint = did_you_mean(argument, self._flags)
            self.problems.append(f"{argument}: unknown flag{hint}")


def key_of_flag(word: str) -> str | None:
    """The key that ``--KEY`` names, dashes in it being underscores; None for other words."""
    return word.removeprefix("--").replace("-", "_") if word.startswith("--") else None


def _as_flag(key: str, field: FieldInfo) -> str:
    return f"--{key.replace('_', '-')}" if _is_switch(field) else f"--{key}"


def _is_text(field: FieldInfo) -> bool:
    kind = field.annotation
    return str in (get_args(kind) if isinstance(kind, UnionType) else (kind,))


def _is_switch(field: FieldInfo) -> bool:
    return field.annotation is bool
