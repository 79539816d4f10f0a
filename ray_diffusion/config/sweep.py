"""What a sweep is: a base configuration, what varies, and by which figure trials compare."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ray_diffusion.config import presets, strict_yaml, sweep_rules
from ray_diffusion.config.gathering import Gathering, key_of_flag
from ray_diffusion.config.loading import load, override
from ray_diffusion.config.parameters import Parameters
from ray_diffusion.config.schema import Config
from ray_diffusion.config.space import Space, count, draw, of_grid
from ray_diffusion.config.sweep_schema import (
    Budget,
    Confirm,
    EarlyTerminate,
    Metric,
    Resources,
    Sweep,
)
from ray_diffusion.config.wording import show
from ray_diffusion.errors import ConfigError

__all__ = [
    "Budget",
    "Confirm",
    "EarlyTerminate",
    "Metric",
    "Plan",
    "Resources",
    "Sweep",
    "load_sweep",
]

MOST_TOLD: Final = 5  # trials that are refused; the rest is a number


@dataclass(frozen=True)
class Plan:
    """A sweep whose every trial would be accepted.

    Attributes:
        sweep: The file, but for its parameters.
        space: What varies: lists of two values or more, and ranges.
        base: The configuration that trials differ from, with the resources of a trial.
    """

    sweep: Sweep
    space: Space
    base: Config

    @property
    def num_trials(self) -> int:
        """How many trials there are at the most."""
        return count(self.space) if self.sweep.method == "grid" else self.sweep.run_cap or 0

    @property
    def trains_once(self) -> bool:
        """Whether trials differ only in how they draw images, not in what is trained."""
        return all(key.startswith("sampler.") for key in self.space)

    @property
    def draws(self) -> bool:
        """Whether its trials draw images, which autoencoders do not."""
        return sweep_rules.AUTOENCODER not in sweep_rules.kinds(self.space, self.base)

    def values(self, number: int) -> dict[str, Any]:
        """What a trial of a grid or a random search changes in the base, by dotted key.

        Args:
            number: Which trial, from 0.
        """
        if self.sweep.method == "grid":
            return of_grid(self.space, number)
        return draw(self.space, self.sweep.seed, number)

    def trial(self, values: Mapping[str, Any]) -> Config:
        """The configuration of a trial.

        Args:
            values: What it changes in the base.

        Raises:
            ConfigError: If a rule between keys is broken, which only bayes can meet.
        """
        return override(self.base, values)


def load_sweep(
    path: Path, overrides: Sequence[str] = (), have: Mapping[str, float] | None = None
) -> Plan:
    """Read a sweep's file and check every trial before anything starts.

    Args:
        path: The file.
        overrides: ``key=value`` for the base of all trials.
        have: The cluster's resources, as of ``Resources.too_large``; None if not known yet.

    Raises:
        ConfigError: With every problem at once, each with the line of the file that it is in.
    """
    data, lines = strict_yaml.parse(_text(path), str(path))
    places = {key: f"{path}:{line}: " for key, line in lines.items()}
    written = data.get("base", presets.DEFAULT)
    base, problems = _base(path, written, places.get("base", ""), overrides)
    written = data.pop("parameters", None)
    parameters = Parameters(places, base, _typed(overrides))
    if isinstance(written, dict) and written:
        for key, said in written.items():
            parameters.add(key, said)
    else:
        problems.append(f"{places.get('parameters', f'{path}: ')}parameters: needs one key or more")
    problems += parameters.problems
    space, fixed = _parted(parameters.space)
    if not space and not problems:
        problems.append(f"{places['parameters']}parameters: needs one key whose values differ")
    base = _overridden(base, fixed, path, problems)

    def contradictions(sweep: Sweep, failing: Collection[str]) -> Iterator[tuple[str, str]]:
        found = [*sweep_rules.contradictions(sweep, space, base)]
        found += () if have is None else sweep_rules.too_large(sweep, have)
        for keys, problem in found:
            if not set(keys) & set(failing):
                yield next((key for key in keys if key in places), keys[0]), problem

    gathering = Gathering(Sweep)
    for key, value in ({"name": path.stem} | data).items():
        gathering.put(key, value, places)
    try:
        sweep = gathering.build(contradictions)
    except ConfigError as error:
        raise ConfigError([*error.problems, *problems]) from None
    plan = Plan(sweep, space, _overridden(base, sweep.resources.cluster, path, problems))
    if not problems and sweep.method != "bayes":
        problems += _refused_trials(plan, path)
    if problems:
        raise ConfigError(problems)
    return plan


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError([f"{path}: cannot be read: {reason}"]) from error


def _base(path: Path, name: Any, place: str, overrides: Sequence[str]) -> tuple[Config, list[str]]:
    """The base, and what is wrong with it; a file is looked for beside the sweep's own."""
    if not isinstance(name, str):  # the sweep's own check says so
        name = presets.DEFAULT
    try:
        beside = str(path.parent / name) if name.endswith((".yaml", ".yml")) else name
        return load([beside, *overrides]), []
    except ConfigError as error:
        lines = [f"{place}base: {x}" if x.startswith(f"'{name}'") else x for x in error.problems]
        return Config(), lines


def _typed(overrides: Sequence[str]) -> Collection[str]:
    gathering = Gathering(Config)
    gathering.add_arguments(overrides)
    return {*gathering.values, *filter(None, map(key_of_flag, overrides))}


def _parted(space: Space) -> tuple[Space, dict[str, Any]]:
    """What varies, and what is the same for all trials: lists of one."""
    fixed = {key: one.samples[0] for key, one in space.items() if len(one.samples) == 1}
    return {key: one for key, one in space.items() if key not in fixed}, fixed


def _overridden(base: Config, values: Mapping[str, Any], path: Path, problems: list[str]) -> Config:
    try:
        return override(base, values)
    except ConfigError as error:
        problems += [f"{path}: {line}" for line in error.problems]
        return base


def _refused_trials(plan: Plan, path: Path) -> Iterator[str]:
    """Trials that break a rule between keys; the first few, and how many more."""
    refused = 0
    for number in range(plan.num_trials):
        values = plan.values(number)
        try:
            plan.trial(values)
        except ConfigError as error:
            refused += 1
            if refused <= MOST_TOLD:
                said = ", ".join(f"{key}={show(value)}" for key, value in values.items())
                yield f"{path}: trial {number} ({said}): {error.problems[0]}"
    if refused > MOST_TOLD:
        yield f"{path}: {refused - MOST_TOLD:,} more trials break a rule between keys"
