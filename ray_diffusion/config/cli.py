"""The command line of a verb, in one call.

A verb that trains takes a run's config, one that sweeps a sweep's file::

    options = config.command_line(argv, verb="train", doc=__doc__)
    options = config.sweep_command_line(argv, doc=__doc__, have={"CPU": 2, "GPU": 0})

any other takes the fields of its own flat model::

    request = config.request(argv, SampleRequest, verb="sample", doc=__doc__, positional=["model"])
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from ray_diffusion.config.help import SWEEP_FLAGS, request_help, run_help, sweep_help
from ray_diffusion.config.loading import Fetch, dump, load, parse, split_flags
from ray_diffusion.config.schema import Config
from ray_diffusion.config.sweep import Plan, load_sweep
from ray_diffusion.errors import ConfigError

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Options:
    """What the command line of a run asks for."""

    config: Config
    dry_run: bool
    profile: bool


def command_line(
    argv: Sequence[str],
    *,
    verb: str,
    doc: str | None,
    fetch: Mapping[str, Fetch] | None = None,
) -> Options:
    """Read ``[PRESET | FILE.yaml | SCHEME:RUN] [key.path=value ...] [--dry-run | --profile]``.

    ``--help`` and ``--print-config`` print to stdout and end the process here.

    Args:
        argv: The arguments behind the verb.
        verb: The verb's name, for ``--help``.
        doc: The verb's docstring, for ``--help``.
        fetch: By scheme, how to get the config of a run that is recorded elsewhere; see ``load``.

    Raises:
        ConfigError: With every problem at once.
        SystemExit: With 0, after ``--help`` or ``--print-config``.
    """
    flags, rest = split_flags(argv)
    if "--help" in flags:
        print(run_help(verb, doc), end="")
        raise SystemExit(0)
    config = load(rest, fetch)
    if "--print-config" in flags:
        print(dump(config), end="")
        raise SystemExit(0)
    return Options(config, dry_run="--dry-run" in flags, profile="--profile" in flags)


def request(
    argv: Sequence[str],
    model: type[M],
    *,
    verb: str,
    doc: str | None,
    positional: Sequence[str] = (),
) -> M:
    """Read ``[WORD ...] [key=value ...]`` into a flat model; ``--name`` sets its bool ``name``.

    Args:
        argv: The arguments behind the verb.
        model: What to build.
        verb: The verb's name, for ``--help``.
        doc: The verb's docstring, for ``--help``.
        positional: Fields that bare words fill, in this order; see ``parse``.

    Raises:
        ConfigError: With every problem at once.
        SystemExit: With 0, after ``--help``.
    """
    flags, rest = split_flags(argv, ["--help"])
    if "--help" in flags:
        print(request_help(verb, doc, model, positional), end="")
        raise SystemExit(0)
    return parse(rest, model, positional)


@dataclass(frozen=True)
class SweepOptions:
    """What the command line of a sweep asks for."""

    plan: Plan
    file: Path
    dry_run: bool
    promote: bool


def sweep_command_line(
    argv: Sequence[str], *, doc: str | None, have: Mapping[str, float] | None
) -> SweepOptions:
    """Read ``FILE.yaml [key.path=value ...] [--dry-run] [--promote]``.

    ``--help`` prints to stdout and ends the process here.

    Args:
        argv: The arguments behind the verb.
        doc: The verb's docstring, for ``--help``.
        have: The cluster's resources, by Ray's names; None if not known yet.

    Raises:
        ConfigError: With every problem at once.
        SystemExit: With 0, after ``--help``.
    """
    flags, rest = split_flags(argv, SWEEP_FLAGS)
    if "--help" in flags:
        print(sweep_help(doc), end="")
        raise SystemExit(0)
    if not rest or not rest[0].endswith((".yaml", ".yml")):
        found = f", got {rest[0]}" if rest else ""
        raise ConfigError([f"the first argument is the sweep's FILE.yaml{found}"])
    file = Path(rest[0])
    plan = load_sweep(file, rest[1:], have)
    return SweepOptions(plan, file, "--dry-run" in flags, "--promote" in flags)
