from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_diffusion.data.packing import duplicates
from ray_diffusion.data.packing.duplicates import NEAR_BITS, exact_twins, near_pairs, near_twins

words = st.integers(0, 2**64 - 1)
flips = st.lists(st.integers(0, 63), max_size=6)


@st.composite
def look_alikes(draw: st.DrawFn) -> list[int]:
    """Hashes that are near some of the others, at the edge of being so, or far from all."""
    centres = draw(st.lists(words, min_size=1, max_size=4))
    hashes = []
    for centre, bits in draw(st.lists(st.tuples(st.sampled_from(centres), flips), max_size=30)):
        for bit in bits:
            centre ^= 1 << bit
        hashes.append(centre)
    return hashes


def distance(a: int, b: int) -> int:
    return (a ^ b).bit_count()


def greedy(hashes: list[int], bits: int) -> list[int]:
    """The definition: each image against all that stay, in O(n^2)."""
    stay: list[int] = []
    twins = []
    for i, value in enumerate(hashes):
        twin = next((j for j in stay if distance(hashes[j], value) <= bits), i)
        twins.append(twin)
        if twin == i:
            stay.append(i)
    return twins


@given(st.lists(st.sampled_from("abcdef")))
def test_a_copy_points_to_the_first_of_its_kind(digests: list[str]):
    assert exact_twins(digests) == [digests.index(digest) for digest in digests]


@given(look_alikes(), st.integers(0, 3))
def test_near_twins_are_those_of_the_definition(hashes: list[int], bits: int):
    assert near_twins(hashes, bits) == greedy(hashes, bits)


@settings(max_examples=30)
@given(look_alikes(), st.integers(1, 5))
def test_blocks_leave_no_trace(hashes: list[int], block: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_BLOCK", block)
        assert near_twins(hashes) == greedy(hashes, NEAR_BITS)


def test_near_pairs_of_many_dense_hashes_are_all_that_there_are():
    # 14 bits that vary, in places that fall into every band: hundreds of pairs share each key.
    places = np.arange(3, 64, 4, dtype=np.uint64)[:14]
    numbers = np.random.default_rng(0).permutation(2**14)[:1500].astype(np.uint64)
    hashes = np.zeros(1500, np.uint64)
    for i, place in enumerate(places):
        hashes |= (numbers >> np.uint64(i) & np.uint64(1)) << place
    apart = np.bitwise_count(hashes[:, None] ^ hashes)
    later, earlier = np.nonzero(np.tril(apart <= 3, -1))
    assert near_pairs(hashes, 3).tolist() == np.stack([earlier, later], axis=1).tolist()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_near_pairs_are_found_wherever_their_bits_differ(count: int):
    # Every fifth bit: 13 of them, over all six bands.
    values = [0] + [sum(1 << bit for bit in bits) for bits in combinations(range(0, 64, 5), count)]
    hashes = np.asarray(values, np.uint64)
    pairs = near_pairs(hashes, count)
    assert pairs[pairs[:, 0] == 0, 1].tolist() == list(range(1, len(values)))


def test_three_bits_are_near_and_four_are_not():
    four = 1 << 40 | 1 << 46 | 1 << 52 | 1 << 58
    assert near_twins([0, 0b111, four]) == [0, 0, 2]


def test_no_images_have_no_twins():
    assert near_twins([]) == exact_twins([]) == []
