"""Which images repeat an earlier one, exactly or nearly."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

NEAR_BITS = 3  # of the 64 of a difference hash; docs/experiments.md

_BANDS = 6
_BLOCK = 8192  # images
_U64 = np.uint64


def exact_twins(digests: Sequence[str]) -> list[int]:
    """For each image the first one with the same digest: itself where it has no earlier copy."""
    first: dict[str, int] = {}
    return [first.setdefault(digest, i) for i, digest in enumerate(digests)]


def near_twins(hashes: Sequence[int], bits: int = NEAR_BITS) -> list[int]:
    """For each image the first one that it looks like, among those that stay.

    An image stays if it looks like none of those before it that stay, so whoever comes first has
    its place for sure, and no two that stay look alike.

    Args:
        hashes: Difference hash of each image, 64 bits.
        bits: Hashes that differ in so many bits or fewer look alike; at most 3.

    Returns:
        Positions; an image that stays has its own.
    """
    distinct, first, which = np.unique(
        np.asarray(hashes, _U64), return_index=True, return_inverse=True
    )
    # From here on an image is its hash, and hashes are numbered by their first appearance.
    by_appearance = np.argsort(first)
    distinct, first = distinct[by_appearance], first[by_appearance]
    twin = np.arange(len(distinct))
    stay, later = twin[:0], twin
    while later.size:
        # Only with those that stay are others compared: among many look-alikes these are few.
        size = max(_BLOCK, len(stay))
        block, later = np.concatenate([stay, later[:size]]), later[size:]
        gone: dict[int, int] = {}
        for i, j in near_pairs(distinct[block], bits).tolist():
            if i not in gone:
                gone.setdefault(j, i)
        twin[block[list(gone)]] = block[list(gone.values())]
        stay = np.delete(block, list(gone))
    twins: list[int] = first[twin[np.argsort(by_appearance)[which]]].tolist()
    return twins


def near_pairs(hashes: NDArray[np.uint64], bits: int) -> NDArray[np.int64]:
    """All pairs of distinct hashes that differ in at most ``bits`` bits, at most 3.

    Hashes that differ in 3 bits agree in at least 3 of 6 bands of bits (Manku, Jain and Sarma
    2007, "Detecting near-duplicates for web crawling"), so for each choice of 3 bands only hashes
    that agree there are compared. Bands take turns at the bits: in one of neighbouring bits many
    images would agree, by their plain background.

    Args:
        hashes: Distinct, shape ``(n,)``.
        bits: How many bits may differ.

    Returns:
        Positions ``(earlier, later)`` in ascending order by later, then by earlier, each pair once;
        shape ``(pairs, 2)``.
    """
    bands = [_U64(sum(1 << i for i in range(band, 64, _BANDS))) for band in range(_BANDS)]
    found = [np.empty((0, 2), np.int64)]
    for chosen in combinations(bands, _BANDS - 3):
        shared = hashes & np.bitwise_or.reduce(chosen)
        order = np.argsort(shared, kind="stable")
        shared, sorted_hashes = shared[order], hashes[order]
        start, step = np.arange(len(hashes)), 0
        while start.size:
            step += 1
            start = start[start + step < len(hashes)]
            start = start[shared[start] == shared[start + step]]
            distance = np.bitwise_count(sorted_hashes[start] ^ sorted_hashes[start + step])
            near = start[distance <= bits]
            found.append(np.stack([order[near], order[near + step]], axis=1))
    pairs = np.unique(np.concatenate(found)[:, ::-1], axis=0)
    return pairs[:, ::-1]
