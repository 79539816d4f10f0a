import io
import re
import shlex
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from page_reader import read
from PIL import Image

from ray_diffusion import config
from ray_diffusion.data.manifest import Manifest, Shard
from ray_diffusion.data.packing.choose import Choice
from ray_diffusion.data.packing.images import Finding
from ray_diffusion.data.packing.report import (
    FEW,
    MOST_CLASSES,
    MOST_WORDS,
    PICTURES,
    THUMBNAIL,
    next_commands,
    report,
)
from ray_diffusion.data.packing.source import Record, Source
from ray_diffusion.page.histogram import STYLE

OUT = "s3://bucket/my data/flowers"


def encoded(pixels: NDArray[np.uint8], kind: str = "png") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def noise(side: int, seed: int, kind: str = "png") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3))
    return encoded(pixels.astype(np.uint8), kind)


def good(name: str, width: int = 100, height: int = 100, **said: object) -> Finding:
    return Finding(None, "", width, height, True, name)._replace(**said)


def page(
    findings: Sequence[Finding],
    splits: dict[str, list[int]],
    duplicates: Sequence[tuple[int, int]] = (),
    classes: tuple[str, ...] = (),
    class_counts: dict[str, list[int]] | None = None,
    sheet: Sequence[tuple[str, bytes]] = (),
    image_size: int = 8,
    channels: int = 3,
    name: str = "photos",
    keys: Sequence[str] | None = None,
    out: str = OUT,
    **packer: object,
) -> str:
    """The report on a dataset of shards of two images, each of them a megabyte."""
    keys = keys or [f"key{i}" for i in range(len(findings))]
    rejected: dict[str, int] = {}
    reasons = [finding.reason for finding in findings if finding.reason]
    for reason in [*reasons, *("duplicate" for _ in duplicates)]:
        rejected[reason] = rejected.get(reason, 0) + 1
    shards = {
        split: tuple(
            Shard(f"{split}-{first}.tar", len(kept[first : first + 2]), 2_000_000, 0, "")
            for first in range(0, len(kept), 2)
        )
        for split, kept in splits.items()
    }
    manifest = Manifest(
        image_size=image_size,
        channels=channels,
        classes=classes,
        splits=shards,
        class_counts=class_counts or {},
        channel_mean=[0.5] * channels,
        channel_std=[0.2] * channels,
        rejected=rejected,
        packer=packer,
    )
    source = Source(name, classes, [Record(key, None) for key in keys], load=lambda record: b"")
    choice = Choice(splits, rejected, image_size, channels, "png", list(duplicates))
    return report(manifest, source, findings, choice, sheet, out)


def rows(html: str, title: str) -> list[list[str]]:
    """Text of the cells below a heading."""
    content = html.partition(f"<h2>{title}</h2>")[2].partition("</section>")[0]
    return [
        [" ".join(read(cell).text) for _, cell in cells]
        for row in re.findall("<tr>(.*?)</tr>", content)[1:]
        if (cells := re.findall("<(th|td)>(.*?)</(?:th|td)>", row))
    ]


def test_each_split_has_its_images_share_shards_and_size():
    html = page([good(str(i)) for i in range(8)], {"train": [5, 2, 7, 0, 1], "val": [3, 4, 6]})
    assert rows(html, "Splits") == [
        ["train", "5", "62.5%", "3", "6.0"],
        ["val", "3", "37.5%", "2", "4.0"],
    ]
    assert any("8 of 8 images, 8×8 pixels, colour, stored as png" in t for t in read(html).text)


def test_what_was_left_out_is_counted_by_reason_and_shown_with_the_decoders_words():
    findings = [
        good("a"),
        *[Finding("cannot be decoded", f"truncated at {i}") for i in range(FEW + 2)],
        Finding("constant", "", 10, 10),
        good("a"),
    ]
    last = len(findings) - 1
    html = page(findings, {"train": [0]}, [(last, 0)])
    decoded, constant, duplicate = rows(html, "Left out")
    shown = [f"key{i + 1}: truncated at {i}" for i in range(FEW)]
    assert decoded == [" ".join(["cannot be decoded", *shown]), "6", "66.7%"]
    assert constant == [f"constant key{FEW + 3}", "1", "11.1%"]
    assert duplicate == ["duplicate", "1", "11.1%"]


def test_long_words_of_a_decoder_are_cut():
    html = page([good("a"), Finding("cannot be read", "x" * 5000)], {"train": [0]})
    assert "x" * MOST_WORDS in html
    assert "x" * (MOST_WORDS + 1) not in html


def test_where_nothing_was_left_out_the_page_says_so():
    html = page([good("a")], {"train": [0]})
    assert "<h2>Left out</h2><p>Nothing.</p>" in html
    assert "Duplicates" not in html


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_small_pictures_are_the_stored_files(kind: str):
    files = [noise(16, seed, kind) for seed in range(3)]
    sheet = list(zip(["rose", "", "tulip"], files, strict=True))
    html = page([good("a")], {"train": [0]}, sheet=sheet, image_size=16)
    found = read(html)
    assert found.pictures == [(files[0], "rose"), (files[1], "example"), (files[2], "tulip")]
    assert found.kinds == [kind] * 3
    assert re.findall("<figcaption>(.*?)<", html) == ["rose", "tulip"]


@pytest.mark.parametrize(("side", "kind"), [(64, "png"), (65, "jpeg")])
def test_pictures_are_thumbnails_above_64_pixels(side: int, kind: str):
    html = page([good("a")], {"train": [0]}, sheet=[("", noise(side, 0))], image_size=side)
    assert read(html).kinds == [kind]


def test_large_pictures_become_thumbnails_of_what_they_show():
    pixels = np.zeros((256, 256, 3), np.uint8)
    pixels[:, 128:] = (200, 100, 50)
    html = page([good("a")], {"train": [0]}, sheet=[("", encoded(pixels))], image_size=256)
    ((content, _),) = read(html).pictures
    small = np.array(Image.open(io.BytesIO(content))).astype(int)
    assert small.shape == (THUMBNAIL, THUMBNAIL, 3)
    assert np.abs(small[8::16, 8::16] - pixels[16::32, 16::32]).max() < 12


@pytest.mark.parametrize("side", [64, 65, 512])
def test_a_page_of_the_least_compressible_pictures_is_smaller_than_a_megabyte(side: int):
    names = tuple(f"a class with a name of some length {i}" for i in range(5000))
    counts = {split: [100] * 5000 for split in ("train", "val", "test")}
    html = page(
        [good("a"), *[Finding("cannot be read", "x" * 500)] * 100],
        {"train": [0], "val": [], "test": []},
        classes=names,
        class_counts=counts,
        sheet=[(names[i], noise(side, i)) for i in range(PICTURES + 5)],
        image_size=side,
    )
    assert len(read(html).pictures) == PICTURES
    assert len(html.encode()) < 1_000_000


def test_words_of_the_user_are_text_and_nothing_else():
    evil = '"><script>alert("&")</script>'
    findings = [good("a"), Finding("cannot be read", evil), good("a")]
    html = page(
        findings,
        {"train": [0]},
        [(2, 0)],
        classes=(evil,),
        class_counts={"train": [1]},
        sheet=[(evil, noise(8, 0))],
        name=evil,
        keys=[evil] * 3,
        out=evil,
        source=evil,
    )
    whole = " ".join(read(html).text)
    # Title, heading; out and two commands with it; left out and its reason; caption; class, and
    # twice in the sentence on sizes; both of a pair; the packer's source.
    assert whole.count(evil) == 2 + 3 + 2 + 1 + 3 + 2 + 1
    assert read(html).pictures[0][1] == evil


def test_classes_have_their_counts_in_each_split():
    html = page(
        [good("a")],
        {"train": [0], "val": []},
        classes=("rose", "tulip"),
        class_counts={"train": [7, 1200], "val": [3, 0]},
    )
    assert rows(html, "Classes") == [["rose", "7", "3"], ["tulip", "1,200", "0"]]
    assert "2 classes, of 7 (rose) to 1,200 (tulip) training images." in html
    assert "<details" not in html


def test_without_classes_there_is_no_table_of_them():
    assert "Classes" not in page([good("a")], {"train": [0]})


def test_many_classes_are_a_drawing_and_a_folded_table():
    counts = {"train": [*range(50, 0, -1)]}
    names = tuple(f"c{i}" for i in range(50))
    html = page([good("a")], {"train": [0]}, classes=names, class_counts=counts)
    assert 'aria-label="classes by training images"' in html
    assert "<summary>All classes</summary>" in html
    assert [row[0] for row in rows(html, "Classes")] == list(names)


def test_of_very_many_classes_the_smallest_are_listed():
    count = MOST_CLASSES + 100
    counts = {"train": [*range(count, 0, -1)]}
    names = tuple(f"c{i}" for i in range(count))
    html = page([good("a")], {"train": [0]}, classes=names, class_counts=counts)
    listed = [int(row[1]) for row in rows(html, "Classes")]
    assert listed == [*range(1, MOST_CLASSES + 1)]
    assert f"The {MOST_CLASSES} smallest classes" in html


def test_a_duplicate_names_its_twin_and_the_twins_split():
    findings = [good("a"), good("b"), good("b"), good("c")]
    pairs = [(2, 1), (3, 0)]
    html = page(findings, {"train": [1], "val": [0]}, pairs)
    assert rows(html, "Duplicates") == [
        ["key2 like key1, which is in train", "equal pixels"],
        ["key3 like key0, which is in val", "look alike"],
    ]


def test_of_many_duplicates_a_few_are_shown_and_all_are_counted():
    findings = [good("a")] * 1001
    html = page(findings, {"train": [0]}, [(i, 0) for i in range(1, 1001)])
    assert len(rows(html, "Duplicates")) == FEW
    assert f"1,000; the first {FEW}:" in html


def test_sizes_are_those_of_every_image_that_could_be_decoded():
    findings = [
        good("a", 40, 20),
        good("b", 30, 60, colour=False),
        Finding("too oblong", "", 900, 100, True),
        Finding("cannot be decoded", "truncated"),
    ]
    html = page(findings, {"train": [0, 1]})
    assert "20 to 100, median 30." in html
    assert "0.50 to 9.00, median 2.00." in html
    assert "As found, 2 were in colour and 1 grey." in html
    bars = [read(bar).text for bar in re.findall("<title>([^<]*: [^<]*)</title>", html)]
    assert sum(int(text[0].rpartition(": ")[2]) for text in bars) == 2 * 3
    assert STYLE in html


def test_images_of_one_size_need_no_drawing():
    html = page([good("a"), good("b")], {"train": [0, 1]})
    assert "The same for all: 100." in html
    assert "The same for all: 1.00." in html
    assert "<svg" not in html


def test_settings_that_were_left_to_the_packer_read_automatic():
    html = page([good("a")], {"train": [0]}, encoding=None, max_aspect=3.0)
    assert "<dt>encoding</dt><dd>automatic</dd>" in html
    assert "<dt>max aspect</dt><dd>3.0</dd>" in html


def test_the_next_commands_are_understood_and_on_the_page():
    manifest = Manifest(32, 3, (), {}, {}, [], [], {}, {})
    train, verify = next_commands(manifest, OUT)
    words = shlex.split(train)
    assert words[:3] == ["python", "-m", "ray_diffusion.train"]
    loaded = config.load(words[3:])
    assert (loaded.data.dataset_url, loaded.data.image_size) == (OUT, 32)
    assert shlex.split(verify) == ["python", "-m", "ray_diffusion.pack", "verify", OUT]
    html = page([good("a")], {"train": [0]}, image_size=32)
    assert {train, verify} <= set(read(html).text)
