"""The parameters of a sweep's file: what they mean, and every mistake in them at once."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from pydantic import ValidationError

from ray_diffusion.config.gathering import Gathering
from ray_diffusion.config.schema import Config
from ray_diffusion.config.space import OfSection, Parameter
from ray_diffusion.config.tree import flatten, leaves
from ray_diffusion.config.wording import did_you_mean, explain, show
from ray_diffusion.errors import ConfigError

NOT_SWEPT: Final = {
    "run.name": "the sweep names its trials itself",
    "run.storage_": "a sweep's trials are kept together, where its base says",
    "run.allow": "lets a run differ from its past, which a trial does not have",
    "cluster.": "trials run on what the sweep's resources say",
    "tracking.": "a sweep's trials are tracked together, where its base says",
}
"""Keys, or how they begin, that a sweep's trials share or get from it; and why."""

SWEPT: Final = [leaf for leaf in leaves(Config) if not leaf.startswith(tuple(NOT_SWEPT))]


class Parameters:
    """Takes one parameter of a file after the other, and notes what is wrong.

    Args:
        places: Where each key is written, such as ``sweep.yaml:7: ``, by its path in the file.
        base: Gives the keys of a section their values where a mapping leaves them out.
        typed: Keys that were given on the command line, so that they cannot vary.
    """

    def __init__(self, places: Mapping[str, str], base: Config, typed: Collection[str]) -> None:
        self.space: dict[str, Parameter] = {}
        self.problems: list[str] = []
        self._places, self._base, self._typed = places, flatten(base), typed
        self._taken: set[str] = set()

    def add(self, key: str, said: Any) -> None:
        """Take a parameter as it was written.

        Args:
            key: A dotted key, or a section for keys that vary together.
            said: Plain data.
        """
        before = len(self.problems)
        section = any(leaf.startswith(f"{key}.") for leaf in leaves(Config))
        if not section:
            self._check_key(key, self._place(key))
        try:
            parameter = Parameter.model_validate(said)
        except ValidationError as error:
            self._blame(key, *_lines(error, key))
            return
        own = self._of_section(key, parameter) if section else {key: parameter}
        self._blame(key, *(f"{show(value)} is given twice" for value in _repeated(own)))
        if len(self.problems) > before:
            return
        if parameter.values is None and parameter.distribution is None:
            own = {key: _with_distribution(key, parameter)}
        for i in range(len(parameter.samples)):
            chosen = {one: found.samples[i] for one, found in own.items()}
            places = {one: f"{self._place(key, i, one)}parameters." for one in own}
            refusals = _refusals(chosen, places)
            self.problems += refusals
            if refusals and parameter.values is None:
                break  # one value of a range says it all
        self.space |= own

    def _of_section(self, section: str, parameter: Parameter) -> dict[str, Parameter]:
        """A section's mappings by key, with the base's value for what only some of them set."""
        mappings = parameter.values or ()
        if not mappings or not all(isinstance(mapping, dict) for mapping in mappings):
            self._blame(section, "a section: its values are mappings, such as {KEY: VALUE}")
            return {}
        own: dict[str, Parameter] = {}
        for i, mapping in enumerate(mappings):
            for name in [name for name in mapping if f"{section}.{name}" not in own]:
                key = f"{section}.{name}"
                self._check_key(key, self._place(section, i, key))
                values = tuple(one.get(name, self._base.get(key)) for one in mappings)
                own[key] = OfSection(values=values, section=section)
        return own

    def _check_key(self, key: str, place: str) -> None:
        reasons = [why for start, why in NOT_SWEPT.items() if key.startswith(start)]
        if key not in SWEPT:
            reasons.append(f"unknown key{did_you_mean(key, SWEPT)}")
        if key in self._typed:
            reasons.append("cannot vary: it was given on the command line, for all trials")
        if key in self._taken:
            reasons.append("given twice, alone and in its section")
        self.problems += [f"{place}parameters.{key}: {reason}" for reason in reasons[:1]]
        self._taken.add(key)

    def _place(self, parameter: str, i: int = 0, key: str = "") -> str:
        """Where a parameter is written, or what its i-th value says of a key of its section."""
        inner = f"parameters.{parameter}.values[{i}].{key.removeprefix(f'{parameter}.')}"
        return self._places.get(inner) or self._places[f"parameters.{parameter}"]

    def _blame(self, key: str, *problems: str) -> None:
        self.problems += [f"{self._place(key)}parameters.{key}: {line}" for line in problems]


def _with_distribution(key: str, parameter: Parameter) -> Parameter:
    """A range whose distribution was left out, which is by what its key takes."""
    low = parameter.ends[0]
    whole = bool(_refusals({key: low + 0.5})) and not _refusals({key: low})
    return parameter.model_copy(update={"distribution": "int_uniform" if whole else "uniform"})


def _refusals(values: Mapping[str, Any], places: Mapping[str, str] | None = None) -> list[str]:
    """What keys say against their values, whatever all others are."""
    gathering = Gathering(Config)
    for key, value in values.items():
        gathering.put(key, value, places)
    try:
        gathering.build()
    except ConfigError as error:
        return error.problems
    return []


def _repeated(own: Mapping[str, Parameter]) -> list[Any]:
    """Values, or combinations of them, of which a list has more than one."""
    lists = list(zip(*(parameter.values or () for parameter in own.values()), strict=True))
    twice = [values for i, values in enumerate(lists) if values in lists[:i]]
    return [values if len(values) > 1 else values[0] for values in twice]


def _lines(error: ValidationError, key: str) -> Iterator[str]:
    """What is wrong with a parameter, by its own keys."""
    fields = Parameter.model_fields
    for detail in error.errors(include_url=False):
        name = str(detail["loc"][0]) if detail["loc"] else ""
        if name in fields:
            yield f"{name}: {explain(detail, fields[name], ())}"
        elif f"{key}.{name}" in SWEPT:
            yield f"{name}: unknown key; {key}.{name} is written as one key"
        elif name:
            yield f"{name}: unknown key{did_you_mean(name, [*fields, 'value'])}"
        elif cause := detail.get("ctx", {}).get("error"):
            yield str(cause)
        else:
            yield "must be {values: [...]}, {min: ..., max: ...} or {value: ...}"
