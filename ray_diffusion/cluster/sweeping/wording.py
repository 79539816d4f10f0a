"""Figures and values of trials as people read them."""

from typing import Any

from ray_diffusion.cluster.sweeping.journal import Trial
from ray_diffusion.config.wording import show


def number(value: float | None) -> str:
    """A figure in four digits; a dash for one that there is not."""
    return "-" if value is None else f"{value:.4g}"


def words(value: Any) -> str:
    """A value of a parameter."""
    if isinstance(value, float):
        return number(value)
    return value if isinstance(value, str) else show(value)


def assignments(trial: Trial) -> str:
    """What a trial changes in the base, as a command line has it but for the digits."""
    return " ".join(f"{key}={words(value)}" for key, value in trial.values.items())
