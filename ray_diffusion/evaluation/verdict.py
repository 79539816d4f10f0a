"""Which of several models is best over several seeds, and whether that is more than noise."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.special import stdtrit

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Candidate:
    """A model that was trained and measured with one seed or more.

    Attributes:
        name: What people call it.
        values: Its figure, of each seed.
    """

    name: str
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return fmean(self.values)

    @property
    def spread(self) -> float:
        """The sample standard deviation over the seeds; NaN of one value, or one that is none."""
        several = len(self.values) > 1 and math.isfinite(self.mean)
        return stdev(self.values) if several else math.nan

    @property
    def text(self) -> str:
        """Mean and spread."""
        spread = "" if math.isnan(self.spread) else f" ± {self.spread:.3g}"
        return f"{self.mean:.3g}{spread}"


@dataclass(frozen=True)
class Verdict:
    """Candidates in their order, and how far the best is ahead.

    Attributes:
        metric: The figure's name; less is better.
        candidates: The best first; one whose mean is no number comes last.
        difference: The second's mean minus the first's; NaN of a single candidate.
        interval: Where that difference lies with 95 % confidence; None if it cannot be said.
    """

    metric: str
    candidates: tuple[Candidate, ...]
    difference: float
    interval: tuple[float, float] | None

    @property
    def clear(self) -> bool:
        """Whether the best is ahead by more than noise: the interval does not hold 0."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]

    @property
    def text(self) -> str:
        """The verdict in a sentence."""
        first, *others = self.candidates
        count = len(first.values)
        seeds = f"over {count} seeds" if count > 1 else "of one seed"
        head = f"{first.name} is best: {self.metric} {first.text} {seeds}; "
        if not others:
            return head + "there is nothing to compare it with"
        head += f"{others[0].name} has {others[0].text}, "
        if self.interval is None:
            return head + "and whether that is more than noise cannot be said"
        larger = "larger" if self.clear else "no larger"
        low, high = self.interval
        return (
            f"{head}a difference {larger} than the noise "
            f"({self.difference:.3g}, {100 * CONFIDENCE:g} % interval {low:.3g} to {high:.3g})"
        )


def verdict(metric: str, found: Mapping[str, Sequence[float]]) -> Verdict:
    """Compare models of which each was trained and measured with several seeds.

    The interval is Welch's: ``d ± t_nu sqrt(s_1^2 / n_1 + s_2^2 / n_2)`` with ``nu`` of
    Welch 1947, "The generalization of Student's problem". Seed by seed, the models share the order
    of their batches and the noise they draw from, which a paired t would use, at half the degrees
    of freedom. At 3 seeds that gains from a correlation above about 0.5 only, which is what the
    digits have; below, and at 2 seeds, it loses. Correlation makes Welch's interval too wide, so
    it never claims too much.

    Which of two is the second is decided by the figures themselves. The interval says that the
    best is ahead of an equal in at most 5 % of cases all the same, as it has two sides.

    Args:
        metric: The figure's name; less is better.
        found: The figure of each seed, at least one, by the model's name; at least one model.

    Returns:
        The verdict.
    """
    candidates = [Candidate(name, tuple(values)) for name, values in found.items()]
    candidates.sort(key=lambda one: (math.isnan(one.mean), one.mean))
    if len(candidates) < 2:
        return Verdict(metric, tuple(candidates), math.nan, None)
    first, second, *_ = candidates
    return Verdict(metric, tuple(candidates), second.mean - first.mean, _difference(second, first))


def _difference(a: Candidate, b: Candidate) -> tuple[float, float] | None:
    """Where the mean of ``a`` minus that of ``b`` lies."""
    gap, shares = a.mean - b.mean, [one.spread**2 / len(one.values) for one in (a, b)]
    error = math.sqrt(sum(shares))
    if not math.isfinite(gap + error):
        return None
    if error == 0:
        return gap, gap
    freedom = error**4 / sum(
        share**2 / (len(one.values) - 1) for one, share in zip((a, b), shares, strict=True)
    )
    half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    return gap - half, gap + half
