import math
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_diffusion.data.packing.choose import SPLITS, Choice, check, choose
from ray_diffusion.data.packing.duplicates import NEAR_BITS
from ray_diffusion.data.packing.images import REASONS, Finding
from ray_diffusion.data.packing.recipe import Recipe
from ray_diffusion.data.packing.source import Record
from ray_diffusion.errors import DataError, UsageError

brief = settings(max_examples=40)

Item = tuple[Record, Finding]


def record(key: str, group: str | None = None, split: str | None = None) -> Record:
    return Record(key, at=key, group=group, split=split)


def image(name: object = "", dhash: int = 0, **changes: object) -> Finding:
    return Finding(None, "", 32, 32, True, f"digest of {name}", dhash)._replace(**changes)


def different(count: int) -> list[Item]:
    return [(record(f"k{i}"), image(i)) for i in range(count)]


def chosen(items: list[Item], natural_size: int | None = None, **recipe: object) -> Choice:
    records, findings = [item[0] for item in items], [item[1] for item in items]
    return choose(records, findings, Recipe(**recipe), natural_size)


def in_keys(items: list[Item], choice: Choice) -> dict[str, list[str]]:
    """The keys of each split, in its order."""
    return {name: [items[i][0].key for i in indices] for name, indices in choice.splits.items()}


def split_of(items: list[Item], choice: Choice) -> dict[str, str]:
    return {key: name for name, keys in in_keys(items, choice).items() for key in keys}


@st.composite
def sources(draw: st.DrawFn) -> list[Item]:
    """Records with groups, splits of their own, refused images and many copies.

    The first three keep every split from being empty.
    """
    items = [(record(f"own-{name}", split=name), image(name, 255 << 8 * i)) for i, name in
             enumerate(SPLITS, start=2)]  # fmt: skip
    keys = draw(st.lists(st.text("abcdefgh", min_size=1, max_size=6), unique=True, max_size=40))
    for key in keys:
        group = draw(st.none() | st.sampled_from("xyz"))
        split = draw(st.sampled_from([None, None, None, *SPLITS]))
        reason = draw(st.sampled_from([None] * 6 + ["too small", "cannot be decoded"]))
        dhash = draw(st.integers(0, 2**10))
        # Equal pixels have equal hashes.
        items.append((record(key, group, split), image(f"pixels {dhash % 700}", dhash % 700)))
        items[-1] = (items[-1][0], items[-1][1]._replace(reason=reason))
    return items


ANYTHING = {"val_fraction": 0.4, "test_fraction": 0.2, "max_unreadable": 1.0}
DUPLICATES = ["keep", "exact", "near"]


@brief
@given(sources(), st.sampled_from(DUPLICATES))
def test_every_record_is_in_one_split_or_has_one_reason(items: list[Item], duplicates: str):
    choice = chosen(items, duplicates=duplicates, **ANYTHING)
    kept = [i for indices in choice.splits.values() for i in indices]
    out = [copy for copy, _ in choice.duplicates]
    refused = [i for i, (_, finding) in enumerate(items) if finding.reason]
    assert sorted(kept + out + refused) == list(range(len(items)))
    reasons = Counter(finding.reason for _, finding in items if finding.reason)
    for copy, twin in choice.duplicates:
        same = items[copy][1].sha256 == items[twin][1].sha256
        reasons["duplicate" if same else "near duplicate"] += 1
    assert choice.rejected == reasons


@brief
@given(sources(), st.sampled_from(DUPLICATES), st.randoms())
def test_the_order_of_the_records_does_not_matter(
    items: list[Item], duplicates: str, random: Random
):
    shuffled = random.sample(items, len(items))
    one, other = (chosen(x, duplicates=duplicates, **ANYTHING) for x in (items, shuffled))
    assert in_keys(items, one) == in_keys(shuffled, other)
    assert one._replace(splits={}, duplicates=[]) == other._replace(splits={}, duplicates=[])
    assert [[items[i][0].key for i in pair] for pair in one.duplicates] == [
        [shuffled[i][0].key for i in pair] for pair in other.duplicates
    ]


@brief
@given(sources(), st.integers(0, 40), st.sampled_from(DUPLICATES))
def test_no_record_moves_when_others_come(items: list[Item], first: int, duplicates: str):
    fewer = items[: 3 + first]
    before = split_of(fewer, chosen(fewer, duplicates=duplicates, **ANYTHING))
    after = split_of(items, chosen(items, duplicates=duplicates, **ANYTHING))
    assert all(after[key] == before[key] for key in before.keys() & after.keys())


@brief
@given(st.floats(0.05, 0.5), st.floats(0.0, 0.4), st.floats(0.05, 0.4))
def test_a_larger_val_fraction_only_takes_from_train(small: float, more: float, test: float):
    items = different(200)
    options = {"test_fraction": test}
    before = split_of(items, chosen(items, val_fraction=small, **options))
    after = split_of(items, chosen(items, val_fraction=min(small + more, 0.98 - test), **options))
    moves = {(before[key], after[key]) for key in before if before[key] != after[key]}
    assert moves <= {("train", "val")}


@brief
@given(sources())
def test_records_of_one_group_share_a_split(items: list[Item]):
    choice = chosen(items, duplicates="keep", **ANYTHING)
    by_group: dict[str, set[str]] = {}
    for name, indices in choice.splits.items():
        for i in indices:
            if items[i][0].group and not items[i][0].split:
                by_group.setdefault(items[i][0].group, set()).add(name)
    assert all(len(names) == 1 for names in by_group.values())


@brief
@given(sources())
def test_a_split_of_the_source_is_kept(items: list[Item]):
    splits = split_of(items, chosen(items, duplicates="keep", **ANYTHING))
    for given_record, finding in items:
        if given_record.split and not finding.reason:
            assert splits[given_record.key] == given_record.split


def test_splits_have_their_shares():
    count, shares = 20_000, {"train": 0.7, "val": 0.2, "test": 0.1}
    choice = chosen(different(count), val_fraction=0.2, test_fraction=0.1)
    for name, share in shares.items():
        sigma = math.sqrt(count * share * (1 - share))
        assert abs(len(choice.splits[name]) - count * share) < 4 * sigma


def test_the_order_within_a_split_has_nothing_to_do_with_the_keys():
    count = 2000
    order = chosen(different(count), val_fraction=0).splits["train"]
    assert sorted(order) == list(range(count))
    inversions = sum(a > b for i, a in enumerate(order) for b in order[i + 1 :])
    mean, sigma = count * (count - 1) / 4, math.sqrt(count * (count - 1) * (2 * count + 5) / 72)
    assert abs(inversions - mean) < 4 * sigma


def test_splits_that_the_recipe_does_not_want_are_absent():
    assert list(chosen(different(100)).splits) == ["train", "val"]
    assert list(chosen(different(100), val_fraction=0).splits) == ["train"]
    assert list(chosen(different(100), test_fraction=0.3).splits) == ["train", "val", "test"]


@brief
@given(sources())
def test_no_pixels_occur_twice(items: list[Item]):
    choice = chosen(items, duplicates="exact", **ANYTHING)
    kept = [items[i][1].sha256 for indices in choice.splits.values() for i in indices]
    assert len(kept) == len(set(kept))
    for copy, twin in choice.duplicates:
        assert items[copy][1].sha256 == items[twin][1].sha256


@brief
@given(sources())
def test_no_images_that_stay_look_alike_and_those_left_out_do(items: list[Item]):
    choice = chosen(items, duplicates="near", **ANYTHING)
    kept = [items[i][1].dhash for indices in choice.splits.values() for i in indices]
    assert all((a ^ b).bit_count() > NEAR_BITS for i, a in enumerate(kept) for b in kept[:i])
    stays = {i for indices in choice.splits.values() for i in indices}
    for copy, twin in choice.duplicates:
        assert twin in stays
        assert (items[copy][1].dhash ^ items[twin][1].dhash).bit_count() <= NEAR_BITS


@pytest.mark.parametrize("duplicates", ["exact", "near"])
@pytest.mark.parametrize(
    ("one", "other", "stays"),
    [("train", "val", "train"), ("train", "test", "train"), ("val", "test", "val")],
)
def test_of_two_copies_the_one_nearer_to_training_stays(
    one: str, other: str, stays: str, duplicates: str
):
    for swapped in (False, True):
        copies = [(record(name, split=name), image("same")) for name in (one, other)]
        rest = [(record(f"own-{name}", split=name), image(name, 255 << 8 * i))
                for i, name in enumerate(SPLITS, start=1)]  # fmt: skip
        items = rest + copies[:: -1 if swapped else 1]
        choice = chosen(items, duplicates=duplicates, test_fraction=0.1)
        assert split_of(items, choice).keys() & {one, other} == {stays}


def test_a_refused_image_is_no_ones_twin():
    items = [(record(f"k{i}", split="train"), image("same", reason="too small")) for i in range(9)]
    items.append((record("fine", split="train"), image("same")))
    choice = chosen(items, val_fraction=0)
    assert (choice.splits, choice.duplicates) == ({"train": [9]}, [])


def damaged(count: int) -> list[Item]:
    words = image(reason="cannot be decoded", detail="image file is truncated")
    lost = image(reason="cannot be read", detail="timed out")
    return [(record(f"bad{i}"), (words, lost)[i % 2]) for i in range(count)]


def test_too_many_unreadable_images_stop_the_packer():
    items = different(87) + damaged(13)
    assert chosen(items, max_unreadable=0.13).rejected == {
        "cannot be read": 6,
        "cannot be decoded": 7,
    }
    with pytest.raises(DataError) as raised:
        chosen(items, max_unreadable=0.12)
    for part in ("13 of 100", "13.0%", "'bad0'", "image file is truncated", "max_unreadable=0.13"):
        assert part in str(raised.value)


@brief
@given(st.integers(1, 300), st.integers(1, 30))
def test_the_advised_max_unreadable_is_enough(good: int, bad: int):
    own = [(record(name, split=name), image(name)) for name in ("train", "val")]
    items = own + different(good) + damaged(bad)
    with pytest.raises(DataError) as raised:
        chosen(items, max_unreadable=0)
    advised = float(str(raised.value).rpartition("=")[2])
    assert chosen(items, max_unreadable=advised)


def test_images_that_are_merely_unwanted_do_not_count_as_unreadable():
    unwanted = [(record(f"u{i}"), image(reason=REASONS[2 + i % 4])) for i in range(100)]
    assert sum(chosen(different(50) + unwanted).rejected.values()) == 100


def test_nothing_left_is_said_with_its_reasons():
    items = [(record(f"k{i}"), image(reason="too small")) for i in range(3)]
    with pytest.raises(DataError, match="no image is left to pack: 3 too small"):
        chosen(items)
    with pytest.raises(DataError, match="the source has none"):
        chosen([])


@pytest.mark.parametrize(
    ("present", "options", "message"),
    [
        ("train", {}, r"none of 3 images is in the 'val' split.*val_fraction=0$"),
        ("train", {"val_fraction": 0, "test_fraction": 0.5}, "'test' split.*test_fraction=0$"),
        ("val", {}, "'train' split; give more images$"),
    ],
)
def test_an_empty_split_is_refused(present: str, options: dict, message: str):
    items = [(record(f"k{i}", split=present), image(i)) for i in range(3)]
    with pytest.raises(DataError, match=message):
        chosen(items, **options)


def test_fractions_leave_something_for_training():
    with pytest.raises(UsageError, match="val_fraction and test_fraction"):
        chosen(different(10), val_fraction=0.5, test_fraction=0.5)


def sized(*sizes: tuple[int, int], **changes: object) -> list[Item]:
    return [
        (record(f"k{i}", split="train"), image(i, width=width, height=height, **changes))
        for i, (width, height) in enumerate(sizes)
    ]


def test_the_size_is_asked_for_or_natural_or_common():
    assert chosen(sized((32, 32), (32, 32)), val_fraction=0).image_size == 32
    assert chosen(sized((32, 32), (9, 40)), 28, val_fraction=0).image_size == 28
    assert chosen(sized((32, 32)), 28, val_fraction=0, image_size=16).image_size == 16


@pytest.mark.parametrize(
    ("sizes", "extent"),
    [
        ([(20, 30), (640, 480), (32, 32)], "20x30 to 640x480 pixels"),
        ([(40, 30), (40, 30)], "40x30 pixels"),
        ([(32, 32), (64, 64)], "32x32 to 64x64 pixels"),
        ([(2048, 2048)], "2048x2048 pixels"),
        ([(3, 3)], "3x3 pixels"),
    ],
)
def test_a_size_must_be_given_for_images_without_a_common_one(sizes: list, extent: str):
    with pytest.raises(UsageError, match=f"images are {extent}; give image_size"):
        chosen(sized(*sizes), val_fraction=0)


def test_refused_images_have_no_say_in_size_and_colour():
    items = sized((32, 32), colour=False)
    small = image("small", width=9, height=9, reason="too small")
    items.append((record("small", split="train"), small))
    choice = chosen(items, val_fraction=0)
    assert (choice.image_size, choice.channels) == (32, 1)


def test_channels_are_asked_for_or_grey_if_every_image_is():
    grey, colour = sized((8, 8), (8, 8), colour=False), sized((8, 8))
    mixed = [*grey, (record("c", split="train"), image("c", width=8, height=8))]
    depths = [chosen(items, val_fraction=0).channels for items in (grey, colour, mixed)]
    assert depths == [1, 3, 3]
    assert chosen(grey, val_fraction=0, channels=3).channels == 3
    assert chosen(colour, val_fraction=0, channels=1).channels == 1


def test_the_encoding_is_asked_for_or_follows_from_the_size():
    items = different(50)
    formats = [chosen(items, image_size=size).encoding for size in (64, 65)]
    assert formats == ["png", "jpeg"]
    assert chosen(items, encoding="keep").encoding == "keep"
    assert chosen(items, encoding="webp").encoding == "webp"


def test_grey_images_cannot_be_webp():
    for items, options in ((different(50), {"channels": 1}), (sized((8, 8), colour=False), {})):
        with pytest.raises(UsageError, match="webp holds no grey"):
            chosen(items, encoding="webp", val_fraction=0, **options)


def test_a_recipe_for_no_source_is_refused_before_any_is_looked_at():
    for options in (
        {"val_fraction": 0.6, "test_fraction": 0.6},
        {"encoding": "webp", "channels": 1},
    ):
        with pytest.raises(UsageError):
            check(Recipe(**options))


def test_the_split_and_the_order_of_keys_are_the_same_for_ever():
    choice = chosen(different(12), val_fraction=0.3, test_fraction=0.3)
    assert choice.splits == {"train": [1, 4, 2], "val": [5, 8, 10, 0, 9], "test": [6, 7, 11, 3]}
