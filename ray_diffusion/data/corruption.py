"""What becomes of an example that cannot be used: a reader never skips one in silence.

Skipping would give one worker fewer examples than the others, and the stream another order. So an
example either ends the run, or has a substitute, or stays in its place with weight 0.
"""

import json
from dataclasses import dataclass, field

from ray_diffusion.data.shards import Place
from ray_diffusion.errors import DataError, warn
from ray_diffusion.storage import Directory

FREE = 10  # bad examples before their share counts: one in the first ten is no rate


@dataclass(frozen=True)
class CorruptPolicy:
    """How bad examples are treated.

    Attributes:
        action: ``"fail"`` ends the run; ``"substitute"`` takes the next good example of the same
            shard; ``"mask"`` keeps a black image of weight 0.
        most: Largest share of bad examples among those that a process reads, in [0, 1]; beyond it
            the run ends whatever the action.
        quarantine_url: Directory in which each bad example leaves a file with its key and what is
            wrong with it; None leaves none.
    """

    action: str = "fail"
    most: float = 0.001
    quarantine_url: str | None = None


@dataclass
class Corruption:
    """Counts the bad examples that a process meets, writes them down, and ends the run in time."""

    policy: CorruptPolicy
    read: int = 0
    bad: int = 0
    _known: set[tuple[str, int]] = field(default_factory=set)

    def meet(self, place: Place, position: int, key: str, problem: str) -> None:
        """Take note of a bad example.

        Args:
            place: Its shard.
            position: Its index within the shard.
            key: Its key.
            problem: What is wrong with it, as it follows its name.

        Raises:
            DataError: If the policy is to fail, or too many examples were bad.
            StorageError: If the quarantine cannot be written.
        """
        what = f"{place}: example '{key}' {problem}"
        if self.policy.action == "fail":
            raise DataError(what)
        self.bad += 1
        if self.bad > max(FREE, self.policy.most * self.read):
            raise DataError(
                f"{self.bad:,} of {self.read:,} examples were bad, more than data.max_corrupt, "
                f"{self.policy.most:g}; the last: {what}"
            )
        if (str(place), position) not in self._known:
            self._known.add((str(place), position))
            warn(f"{what}; data.corrupt_policy={self.policy.action}")
            self._quarantine(place, position, key, problem)

    def _quarantine(self, place: Place, position: int, key: str, problem: str) -> None:
        if self.policy.quarantine_url is not None:
            # Named by the example: workers, epochs and resumed runs write the same file again. The
            # checksum tells mixed datasets apart, whose shards may have equal names.
            facts = {"shard": str(place), "position": position, "key": key, "problem": problem}
            Directory(self.policy.quarantine_url).write(
                f"{place.shard.name}-{place.shard.crc32:08x}-{position:06d}.json",
                json.dumps(facts, indent=1),
            )
