"""Which checkpoints of a run stay: the newest, the best, and one now and then for good."""

from collections.abc import Mapping
from typing import NamedTuple

from ray_diffusion.errors import StorageError
from ray_diffusion.storage import Directory
from ray_diffusion.training.checkpoint import facts_of, images_seen_of, names


class Keep(NamedTuple):
    """Which checkpoints stay; those that no rule names are deleted.

    Attributes:
        newest: The last so many, at least 1.
        best: So many with the lowest ``val/score``, of those saved right after a validation; of
            equal ones the newer.
        every_images: The first at or after each multiple of so many images; None for no such rule.
    """

    newest: int
    best: int = 0
    every_images: int | None = None


def thin_out(run: Directory, newest: str, keep: Keep, known: dict[str, float | None]) -> None:
    """Delete the checkpoints of a run that need not stay.

    Unfinished ones go and take nobody's place, and so does whatever lies beyond the newest: it is
    damaged, or the run would have continued from there. One that the storage does not let be read
    stays, until it does.

    Args:
        run: The run's directory.
        newest: The one just published.
        keep: Which stay.
        known: The scores of whole checkpoints by name, None where no validation preceded; what is
            read is added, so that none is read twice.

    Raises:
        StorageError: If the checkpoints cannot be listed, or one cannot be deleted.
    """
    found, unread = names(run), set()
    for name in found:
        if name <= newest and name not in known:
            try:
                facts = facts_of(run, name)
            except StorageError:
                unread.add(name)
            else:
                if facts is not None:
                    known[name] = facts.get("score")
    whole = {newest: None} | {name: known[name] for name in found if name in known}
    kept = _kept(whole, keep) | unread
    for name in found:
        if name not in kept:
            run.remove(name)
            known.pop(name, None)


def _by_score(scores: Mapping[str, float | None]) -> list[str]:
    """Those that have a score, the lowest first, of equal ones the newer first."""
    scored = {name: s for name in sorted(scores, reverse=True) if (s := scores[name]) is not None}
    return sorted(scored, key=scored.__getitem__)


def _kept(scores: Mapping[str, float | None], keep: Keep) -> set[str]:
    oldest_last, milestones = sorted(scores, reverse=True), {}
    if keep.every_images is not None:
        milestones = {images_seen_of(name) // keep.every_images: name for name in oldest_last}
        milestones.pop(0, None)  # no multiple lies before these
    best = _by_score(scores)[: keep.best]
    return {*oldest_last[: keep.newest], *best, *milestones.values()}
