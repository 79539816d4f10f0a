"""Where values lie on an axis of a drawing, and what stands beside it."""

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

DECADE = 10  # values that are further apart than this factor are shown by their logarithm
TICKS = 5  # numbers on an axis, about
UNITS = {1e9: "G", 1e6: "M", 1e3: "k"}

Tick = tuple[float, str]
"""Where on the axis, as a share of its length, and what stands there."""


class Scale(NamedTuple):
    """An axis of numbers.

    Attributes:
        low: Where it begins.
        high: Where it ends, above ``low``.
        log: Whether equal factors are equally long.
    """

    low: float
    high: float
    log: bool = False

    def holds(self, value: Any) -> bool:
        """Whether the value has a place on such an axis."""
        return _is_number(value) and (value > 0 or not self.log)

    def at(self, value: float) -> float:
        """The value's place: 0 at ``low``, 1 at ``high``."""
        low, high, here = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return (here - low) / (high - low)

    def ticks(self) -> list[Tick]:
        """Round numbers, the lowest first."""
        numbers = self._powers() if self.log else []
        if len(numbers) < 2:
            numbers = [float(n) for n in _multiples(self.low, self.high)]
        return [(self.at(number), brief(number)) for number in numbers]

    def _powers(self) -> list[float]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        apart = -(-(last - first) // TICKS)
        within = (1, 2, 5) if last - first <= 2 else (1,)
        powers = [float(f"{m}e{n}") for n in range(first, last + 1, apart) for m in within]
        return [power for power in powers if self.low <= power <= self.high]


class Categories(NamedTuple):
    """An axis of names, equally far apart."""

    names: tuple[str, ...]

    def holds(self, value: Any) -> bool:
        """Whether it is one of the names."""
        return value in self.names

    def at(self, value: str) -> float:
        """The name's place, between 0 and 1."""
        return (self.names.index(value) + 0.5) / len(self.names)

    def ticks(self) -> list[Tick]:
        """All names."""
        return [(self.at(name), name) for name in self.names]


def fit(values: Iterable[Any], log: bool | None = None) -> Scale:
    """The axis that just holds some values.

    Args:
        values: What is no finite number is left out; of none the axis is 0 to 1.
        log: Whether it is logarithmic; None: if all values are above 0 and far apart.
    """
    finite = [float(value) for value in values if _is_number(value) and (value > 0 or not log)]
    if not finite:
        return Scale(1, DECADE, True) if log else Scale(0, 1)
    low, high = min(finite), max(finite)
    if log is None:
        log = low > 0 and high / low > DECADE
    if not high - low > 1e-9 * abs(high):  # rounding is no range
        half = abs(low) / 2 or 0.5
        low, high = (low / 2, high * 2) if log else (low - half, high + half)
    return Scale(low, high, log)


def round_up(least: float) -> Fraction:
    """The smallest of 1, 2, 5, 10, 20, 50 ... and 0.5, 0.2, 0.1 ... that is not below ``least``."""
    power, exactly = Fraction(10) ** math.floor(math.log10(least)), Fraction(str(least))
    return next((m * power for m in (1, 2, 5) if m * power >= exactly), 10 * power)


def brief(value: float) -> str:
    """A number in as few characters as it takes.

    >>> brief(0.25), brief(64_000), brief(-1_500_000)
    ('0.25', '64k', '-1.5M')
    """
    for unit, letter in UNITS.items():
        if abs(value) >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"


def _multiples(low: float, high: float) -> Iterator[Fraction]:
    # In fractions of what is written, as in floats 3 * 0.1 is not 0.3.
    step = round_up((high - low) / TICKS)
    first, last = Fraction(str(low)) / step, Fraction(str(high)) / step
    for i in range(math.ceil(first), math.floor(last) + 1):
        yield i * step


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
