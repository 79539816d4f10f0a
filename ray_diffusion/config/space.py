"""What a sweep chooses from: the values that a trial's keys can have.

A trial is a function of the sweep's seed and the trial's number alone, key by key: a sweep that is
resumed, or gets one parameter more, tries the same values of all others again.
"""

import math
import random
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, model_validator

from ray_diffusion.config.values import Float, Values

SPELLINGS: Final = {"log_uniform_values": "log_uniform"}
"""W&B's names of distributions, where they are others."""


def _respelt(said: Any) -> Any:
    return SPELLINGS.get(said, said) if isinstance(said, str) else said


class Parameter(Values):
    """The values of one key: a list, or a range and how values lie in it.

    ``value: X`` is a list of one.
    """

    values: tuple[Any, ...] | None = Field(default=None, min_length=1)
    min: Float | None = None
    max: Float | None = None
    distribution: Annotated[
        Literal["uniform", "log_uniform", "int_uniform"] | None, BeforeValidator(_respelt)
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _of_one_value(cls, said: Any) -> Any:
        if not isinstance(said, dict) or "value" not in said:
            return said
        if len(said) > 1:
            raise ValueError("value stands alone; several are values: [...]")
        return {"values": [said["value"]]}

    @model_validator(mode="after")
    def _is_a_list_or_a_range(self) -> "Parameter":
        if self.values is not None:
            if (self.min, self.max, self.distribution) != (None, None, None):
                raise ValueError("takes either values, or min, max and distribution")
            return self
        if self.min is None or self.max is None:
            raise ValueError("needs values, or min and max")
        if not self.min < self.max:
            raise ValueError(f"min must be below max, got {self.min:g} and {self.max:g}")
        if self.distribution == "log_uniform" and self.min <= 0:
            raise ValueError(
                f"log_uniform needs a min above 0 (a value, not its exponent), got {self.min:g}"
            )
        if self.distribution == "int_uniform" and not self.has_whole_ends:
            raise ValueError(f"int_uniform needs whole numbers, got {self.min:g} and {self.max:g}")
        return self

    @property
    def has_whole_ends(self) -> bool:
        """Whether it is a range between whole numbers."""
        return self.values is None and self.ends[0].is_integer() and self.ends[1].is_integer()

    @property
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest value of a range."""
        assert self.min is not None
        assert self.max is not None
        return self.min, self.max

    @property
    def samples(self) -> tuple[Any, ...]:
        """All values of a list; of a range, its ends and one between them."""
        if self.values is not None:
            return self.values
        whole = int if self.distribution == "int_uniform" else float
        return whole(self.ends[0]), self._quantile(0.4), whole(self.ends[1])

    def draw(self, at: random.Random) -> Any:
        """A value.

        Args:
            at: Where to draw it from.
        """
        return at.choice(self.values) if self.values is not None else self._quantile(at.random())

    def _quantile(self, share: float) -> float | int:
        """The value below which a share of the range lies."""
        low, high = self.ends
        if self.distribution == "int_uniform":
            return int(low) + min(int(high - low), int(share * (high - low + 1)))
        if self.distribution == "log_uniform":
            value = math.exp((1 - share) * math.log(low) + share * math.log(high))
        else:
            value = low + share * (high - low)
        return min(high, max(low, value))  # neither end is missed by a rounding


class OfSection(Parameter):
    """The values of one key of a section that varies as a whole.

    The i-th goes with the i-th of all other such keys.
    """

    section: str


Space = Mapping[str, Parameter]
"""Parameters by dotted key."""


def axes(space: Space) -> dict[str, list[str]]:
    """The keys that vary together, by their section; keys that vary alone, by themselves."""
    found: dict[str, list[str]] = {}
    for key, parameter in space.items():
        found.setdefault(_axis(key, parameter), []).append(key)
    return found


def count(space: Space) -> int:
    """How many trials a grid has."""
    return math.prod(len(space[keys[0]].samples) for keys in axes(space).values())


def of_grid(space: Space, number: int) -> dict[str, Any]:
    """The values of a trial of a grid, whose last parameter changes fastest.

    Args:
        space: What it chooses from; lists only.
        number: Which trial, from 0 to ``count(space) - 1``.

    Returns:
        Values by dotted key.
    """
    chosen: dict[str, Any] = {}
    for keys in reversed(axes(space).values()):
        number, place = divmod(number, len(space[keys[0]].samples))
        chosen |= {key: space[key].samples[place] for key in keys}
    return {key: chosen[key] for key in space}


def draw(space: Space, seed: int, number: int) -> dict[str, Any]:
    """The values of a trial of a random search.

    Args:
        space: What it chooses from.
        seed: The sweep's.
        number: Which trial, from 0.

    Returns:
        Values by dotted key; each hangs on the seed, the number and its own axis alone.
    """
    return {
        # Keys of one section draw alike, so from lists of one length the same place.
        key: parameter.draw(random.Random(f"{seed} {number} {_axis(key, parameter)}"))
        for key, parameter in space.items()
    }


def _axis(key: str, parameter: Parameter) -> str:
    return parameter.section if isinstance(parameter, OfSection) else key
