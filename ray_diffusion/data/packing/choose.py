"""Which images a dataset holds, in which split and in which order."""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from ray_diffusion.data.packing.duplicates import exact_twins, near_twins
from ray_diffusion.data.packing.images import REASONS, UNREADABLE, Finding, encoding_at, extent
from ray_diffusion.data.packing.recipe import LARGEST, SMALLEST, Recipe
from ray_diffusion.data.packing.source import Record
from ray_diffusion.errors import DataError, UsageError

SPLITS = ("train", "val", "test")  # of two copies, the one in the earlier of these stays
DUPLICATE, NEAR_DUPLICATE = "duplicate", "near duplicate"


class Choice(NamedTuple):
    """What becomes of each image of a source.

    Attributes:
        splits: Indices of the records in each split that has any, in the order of its examples.
        rejected: How many records are left out, by reason; only reasons that occur.
        image_size: Side of the examples, pixels.
        channels: 1 for grey, 3 for colour.
        encoding: ``"png"``, ``"jpeg"``, ``"webp"`` or ``"keep"``.
        duplicates: Indices of each copy that is left out and of the image that stays for it.
    """

    splits: dict[str, list[int]]
    rejected: dict[str, int]
    image_size: int
    channels: int
    encoding: str
    duplicates: list[tuple[int, int]]


def choose(
    records: Sequence[Record],
    findings: Sequence[Finding],
    recipe: Recipe,
    natural_size: int | None,
) -> Choice:
    """Leave out what is refused or doubled, and divide the rest into splits.

    A record's split is the source's own, or follows from a hash of its group or key alone: it
    never moves when others come or go, and a larger ``val_fraction`` only takes from train. Of two
    copies one in train stays, for a held-out copy of a training image would be a leak. The order
    within a split is by another hash of the key, so that every shard holds a bit of everything.

    Args:
        records: All records of the source; keys are unique.
        findings: What each one's image is.
        recipe: What to do with them.
        natural_size: Side of the source's images, pixels; None: they have their own.

    Returns:
        The same for any order of the records, but for the numbers that indices are.

    Raises:
        UsageError: If the recipe cannot be followed for these images.
        DataError: If too many images are unreadable, or a split would be empty.
    """
    check(recipe)
    _refuse_damage(records, findings, recipe)
    usable = [i for i, finding in enumerate(findings) if finding.reason is None]
    split = {i: split_of(records[i], recipe) for i in usable}
    usable.sort(key=lambda i: (SPLITS.index(split[i]), _hash("order", records[i].key)))
    duplicates = _duplicates(usable, findings, recipe)

    out = {copy for copy, _ in duplicates}
    kept = [i for i in usable if i not in out]
    counts = Counter(finding.reason for finding in findings)
    for copy, twin in duplicates:
        same = findings[copy].sha256 == findings[twin].sha256
        counts[DUPLICATE if same else NEAR_DUPLICATE] += 1
    reasons = (*REASONS, DUPLICATE, NEAR_DUPLICATE)
    rejected = {reason: counts[reason] for reason in reasons if counts[reason]}

    splits = {name: [i for i in kept if split[i] == name] for name in SPLITS}
    _refuse_empty(splits, rejected, recipe)
    image_size = recipe.image_size or natural_size or _common_side([findings[i] for i in kept])
    channels = recipe.channels or (3 if any(findings[i].colour for i in kept) else 1)
    encoding = encoding_at(image_size, recipe)
    check(recipe.model_copy(update={"channels": channels}))
    splits = {name: indices for name, indices in splits.items() if indices}
    return Choice(splits, rejected, image_size, channels, encoding, duplicates)


def check(recipe: Recipe) -> None:
    """Refuse a recipe that no source could be packed by.

    Raises:
        UsageError: If it is one.
    """
    if recipe.val_fraction + recipe.test_fraction >= 1:
        raise UsageError("val_fraction and test_fraction leave nothing for training: lower one")
    if (recipe.encoding, recipe.channels) == ("webp", 1):
        raise UsageError("webp holds no grey images: give channels=3 or another encoding")


def _hash(purpose: str, name: str) -> int:
    """A number in ``[0, 2^64)``; another purpose gives an independent one."""
    return int.from_bytes(hashlib.sha256(f"{purpose}/{name}".encode()).digest()[:8])


def split_of(record: Record, recipe: Recipe) -> str:
    """The split that a record belongs to, whether or not its image can be used.

    Without one of its own, its group or key has a place in [0, 1) by its hash: val is at the
    bottom, test at the top, so a larger fraction only takes from train.
    """
    if record.split is not None:
        return record.split
    position = _hash("split", record.key if record.group is None else record.group)
    if position < recipe.val_fraction * 2**64:
        return "val"
    return "test" if position >= (1 - recipe.test_fraction) * 2**64 else "train"


def _duplicates(
    ranked: Sequence[int], findings: Sequence[Finding], recipe: Recipe
) -> list[tuple[int, int]]:
    """Each copy to leave out and its twin that stays, which comes before it in ``ranked``."""
    if recipe.duplicates == "keep":
        return []
    if recipe.duplicates == "exact":
        twins = exact_twins([findings[i].sha256 for i in ranked])
    else:
        twins = near_twins([findings[i].dhash for i in ranked])
    return [(i, ranked[twin]) for i, twin in zip(ranked, twins, strict=True) if i != ranked[twin]]


def _refuse_damage(records: Sequence[Record], findings: Sequence[Finding], recipe: Recipe) -> None:
    damaged = [i for i, finding in enumerate(findings) if finding.reason in UNREADABLE]
    if len(damaged) > recipe.max_unreadable * len(findings):
        first, share = damaged[0], len(damaged) / len(findings)
        raise DataError(
            f"{len(damaged)} of {len(findings)} images ({share:.1%}) cannot be read or decoded, "
            f"the first is '{records[first].key}' ({findings[first].detail}); mend them, or leave "
            f"them out by max_unreadable={math.ceil(100 * share) / 100}"
        )


def _refuse_empty(splits: dict[str, list[int]], rejected: dict[str, int], recipe: Recipe) -> None:
    count = sum(map(len, splits.values()))
    if not count:
        reasons = ", ".join(f"{number} {reason}" for reason, number in rejected.items())
        raise DataError(f"no image is left to pack: {reasons or 'the source has none'}")
    fractions = {"val": recipe.val_fraction, "test": recipe.test_fraction}
    for name, indices in splits.items():
        if not indices and fractions.get(name, 1):
            none = f", or {name}_fraction=0" if name in fractions else ""
            raise DataError(
                f"none of {count} images is in the '{name}' split; give more images{none}"
            )


def _common_side(findings: Sequence[Finding]) -> int:
    """The side of images that are all squares of one size."""
    width, height = findings[0].width, findings[0].height
    alike = all((finding.width, finding.height) == (width, height) for finding in findings)
    if alike and width == height and SMALLEST <= width <= LARGEST:
        return width
    raise UsageError(f"images are {extent(findings)} pixels; give image_size, as in image_size=64")
