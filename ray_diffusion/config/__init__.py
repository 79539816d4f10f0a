"""What a run is, and how it is said: models, YAML presets, dotted overrides, readable errors.

::

    options = config.command_line(argv, verb="train", doc=__doc__)   # a verb's whole command line
    run = config.load(["digits", "optim.lr=3e-4"])                   # the same, from Python
    config.override(run, {"optim.lr": 1e-3})                         # one trial of a sweep
    config.from_yaml(config.dump(run), "config.yaml") == run         # to a run's directory and back

Whatever is wrong arrives as one ``ConfigError`` that lists every problem. Configs from these
functions obey ``rules.py``; one built by hand from ``Config(...)`` is only checked key by key.

To add a key, add one field to ``schema.py``: command line, files, ``--help``, sweeps and MLflow
follow. To add a rule between keys, add one entry to ``rules.py``. To add a preset, add one file to
``ray_diffusion/presets``.
"""

from ray_diffusion.config.cli import (
    Options,
    SweepOptions,
    command_line,
    request,
    sweep_command_line,
)
from ray_diffusion.config.loading import dump, from_yaml, load, override, parse, split_flags
from ray_diffusion.config.reach import Reach
from ray_diffusion.config.schema import Config
from ray_diffusion.config.strict_yaml import Document
from ray_diffusion.config.strict_yaml import parse as parse_yaml
from ray_diffusion.config.tree import differences, flatten, leaves, nest
from ray_diffusion.config.values import Bool, Float, Int, StorageOptions, Values

__all__ = [
    "Bool",
    "Config",
    "Document",
    "Float",
    "Int",
    "Options",
    "Reach",
    "StorageOptions",
    "SweepOptions",
    "Values",
    "command_line",
    "differences",
    "dump",
    "flatten",
    "from_yaml",
    "leaves",
    "load",
    "nest",
    "override",
    "parse",
    "parse_yaml",
    "request",
    "split_flags",
    "sweep_command_line",
]
