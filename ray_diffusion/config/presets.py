"""The configs that come with the package.

To add one, put a YAML file into ``ray_diffusion/presets``; its first comment line is its headline
in ``--help``.
"""

from pathlib import Path
from typing import Final

DIRECTORY: Final = Path(__file__).parent.parent / "presets"
DEFAULT: Final = "digits"


def path(name: str) -> Path:
    """Where the preset of this name is, or would be."""
    return DIRECTORY / f"{name}.yaml"


def names() -> list[str]:
    """All presets, in alphabetical order."""
    return sorted(file.stem for file in DIRECTORY.glob("*.yaml"))


def headline(name: str) -> str:
    """The first comment line of a preset, without the ``#``."""
    lines = path(name).read_text(encoding="utf-8").splitlines()
    return next((line.strip("# ") for line in lines if line.startswith("#")), "")
