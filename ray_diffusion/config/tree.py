"""A config as one flat table of dotted keys, and back.

The dotted key (``optim.lr``) is the project's one vocabulary: the command line, sweep parameters,
MLflow params and checkpoints all use it.
"""

from collections.abc import Iterator, Mapping
from functools import cache, reduce
from operator import getitem
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ray_diffusion.config.schema import Config
from ray_diffusion.config.values import MAY_CHANGE
from ray_diffusion.config.wording import show


@cache
def leaves(model: type[BaseModel]) -> Mapping[str, FieldInfo]:
    """Every dotted key of a model, in its order, with the field behind it."""
    return dict(_leaves(model))


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def flatten(config: BaseModel) -> dict[str, Any]:
    """The values of all dotted keys, as JSON has them: tuples as lists, bytes as whole numbers.

    >>> flatten(Config())["optim.betas"]
    [0.9, 0.99]
    """
    data = config.model_dump(mode="json")
    return {key: reduce(getitem, key.split("."), data) for key in leaves(type(config))}


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of ``flatten``: dotted keys as dictionaries within dictionaries.

    >>> nest({"run.seed": 1, "optim.lr": 0.1, "optim.grad_clip": 1.0})
    {'run': {'seed': 1}, 'optim': {'lr': 0.1, 'grad_clip': 1.0}}
    """
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        branch = tree
        for section in sections:
            branch = branch.setdefault(section, {})
        branch[name] = value
    return tree


def differences(old: Mapping[str, Any], new: Config) -> list[str]:
    """What keeps ``new`` from continuing a run that was started with ``old``.

    Args:
        old: The dotted keys of the run, as ``flatten`` gave them. A key it lacks is younger than
            the run, which therefore had that key's default.
        new: The config to continue with.

    Returns:
        One line ``key: old -> new`` for each key that differs and may not, by its kind or by
        ``run.allow``; empty if none does.
    """
    then = flatten(Config()) | dict(old)
    now = flatten(new)
    changed = [
        f"{key}: {show(then[key])} -> {show(now[key])}"
        for key, field in leaves(Config).items()
        if then[key] != now[key]
        and field.json_schema_extra != MAY_CHANGE
        and key not in new.run.allow
    ]
    # A key this version does not know may have shaped the run: better refused than guessed.
    unknown = [f"{key}: {show(old[key])} -> no such key" for key in old if key not in now]
    return changed + unknown
