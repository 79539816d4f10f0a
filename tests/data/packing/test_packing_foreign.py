"""Shards that webdataset's own writer made become a dataset where they lie."""

import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_packing
import webdataset
from PIL import Image

from ray_diffusion.data.manifest import read_manifest
from ray_diffusion.data.packing.foreign import index
from ray_diffusion.data.reader import Dataset
from ray_diffusion.errors import DataError, UsageError
from ray_diffusion.storage import MANIFEST, Directory

PLENTY = 1 << 30  # bytes
SIDE = 16
COUNT = 40


def picture(i: int) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.stack([(7 * i + x) % 256, (3 * i + y) % 256, x * y % 256], -1).astype(np.uint8)


def encoded(pixels: np.ndarray, kind: str = "jpeg") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def examples(count: int = COUNT) -> Iterator[dict[str, Any]]:
    for i in range(count):
        yield {"__key__": f"{i:04d}", "jpg": encoded(picture(i)), "cls": i % 5}


def write(
    directory: Path, found: Iterator[dict[str, Any]], per_shard: int = 10, name: str = "data"
) -> None:
    pattern = str(directory / f"{name}-%03d.tar")
    with webdataset.ShardWriter(pattern, maxcount=per_shard, verbose=0) as writer:
        for example in found:
            writer.write(example)


def problem(directory: Path, val_fraction: float = 0.2) -> str:
    with pytest.raises(DataError) as caught:
        index(str(directory), val_fraction)
    assert not (directory / MANIFEST).exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_shards_are_indexed_where_they_lie_and_read(tmp_path: Path):
    write(tmp_path, examples())
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    manifest = index(str(tmp_path), 0.2)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.tar")} == before
    assert read_manifest(str(tmp_path)) == manifest
    assert (manifest.image_size, manifest.channels) == (SIDE, 3)
    assert manifest.classes == tuple("01234")
    assert manifest.examples("train") + manifest.examples("val") == COUNT
    assert manifest.examples("val") >= 10
    seen = []
    for split in ("train", "val"):
        with Dataset(str(tmp_path), split, SIDE, PLENTY) as dataset:
            found = dataset.read(0, len(dataset))
        assert np.bincount(found.labels).tolist() == manifest.class_counts[split]
        seen += [image.tobytes() for image in found.images.numpy()]
        if split == "train":
            pixels = found.images.double() / 255
            mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3), correction=0)
            assert manifest.channel_mean == pytest.approx(mean.tolist(), abs=1e-6)
            assert manifest.channel_std == pytest.approx(std.tolist(), abs=1e-6)
    decoded = (np.asarray(Image.open(io.BytesIO(e["jpg"]))) for e in examples())
    assert Counter(seen) == Counter(image.transpose(2, 0, 1).tobytes() for image in decoded)


def test_the_same_shards_have_the_same_manifest_in_any_storage(tmp_path: Path, remote: str):
    write(tmp_path, examples())
    for path in tmp_path.iterdir():
        Directory(remote).put(path, path.name)
    here, there = index(str(tmp_path), 0.2), index(remote, 0.2)
    assert here == there == index(str(tmp_path), 0.2, overwrite=True)
    assert [file.name for file in Directory(remote).walk()] == Directory(str(tmp_path)).names()


def test_a_manifest_that_is_there_is_not_replaced_unless_it_may_be(tmp_path: Path):
    write(tmp_path, examples())
    first = index(str(tmp_path), 0.2)
    with pytest.raises(UsageError, match=r"has a manifest.json already; .* overwrite=true"):
        index(str(tmp_path), 0.5)
    assert read_manifest(str(tmp_path)) == first
    assert index(str(tmp_path), 0.5, overwrite=True) != first


def test_names_say_the_splits(tmp_path: Path):
    for name in ("train", "Validation", "test", "more"):
        write(tmp_path, examples(4), name=name)
    (tmp_path / "valid").mkdir()
    write(tmp_path / "valid", examples(4), name="0")
    splits = index(str(tmp_path), 0.9).splits
    assert {split: [shard.name for shard in of] for split, of in splits.items()} == {
        "train": ["more-000.tar", "train-000.tar"],
        "val": ["Validation-000.tar", "valid/0-000.tar"],
        "test": ["test-000.tar"],
    }


def test_a_larger_fraction_only_takes_shards_from_the_training_split(tmp_path: Path):
    write(tmp_path, examples(), per_shard=2)
    held_out: set[str] = set()
    for fraction in (0.01, 0.2, 0.5, 0.99):
        splits = index(str(tmp_path), fraction, overwrite=True).splits
        now = {shard.name for shard in splits["val"]}
        assert held_out <= now
        held_out = now
        assert 1 <= len(now) < 20 == len(now) + len(splits["train"])
    assert "val" not in index(str(tmp_path), 0, overwrite=True).splits


def test_one_shard_cannot_be_divided(tmp_path: Path):
    write(tmp_path, examples(4))
    assert "has one shard, and validation takes whole ones: re-pack with" in problem(tmp_path)
    assert index(str(tmp_path), 0).examples("train") == 4


def test_shards_without_labels_have_no_classes(tmp_path: Path):
    write(tmp_path, ({"__key__": e["__key__"], "jpg": e["jpg"]} for e in examples()))
    manifest = index(str(tmp_path), 0.2)
    assert manifest.classes == ()
    assert manifest.class_counts == {"train": [], "val": []}
    with Dataset(str(tmp_path), "train", SIDE, PLENTY) as train:
        assert len(train.read(0, 5).labels) == 5


def test_a_missing_label_is_named(tmp_path: Path):
    found = list(examples())
    for i in (17, 18, 25):
        del found[i]["cls"]
    write(tmp_path, iter(found))
    assert problem(tmp_path) == (
        f"{tmp_path}/data-001.tar: example '0017' has no label (cls), others have one"
    )


@pytest.mark.parametrize("label", [b"cat", b"-1", b"3.5", b""])
def test_a_label_that_is_no_number_is_named(tmp_path: Path, label: bytes):
    found = list(examples())
    found[3]["cls"] = label
    write(tmp_path, iter(found))
    assert f"data-000.tar: example '0003' has label {label!r}" in problem(tmp_path)


def test_images_of_several_sizes_have_to_be_packed(tmp_path: Path):
    found = list(examples())
    found[5]["jpg"] = encoded(picture(5)[:12, :9])
    found[35]["jpg"] = encoded(np.tile(picture(5), (2, 3, 1)))
    write(tmp_path, iter(found))
    assert problem(tmp_path) == (
        f"{tmp_path}: images are from 9x12 to 48x32 pixels, a dataset has squares of one size: "
        f"re-pack with `python -m ray_diffusion.pack source={tmp_path} out=NEW image_size=64`"
    )


def test_images_that_are_no_squares_have_to_be_packed(tmp_path: Path):
    write(tmp_path, (e | {"jpg": encoded(picture(0)[:8])} for e in examples()))
    assert "images are from 16x8 to 16x8 pixels" in problem(tmp_path)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def test_grey_images_and_palettes_among_coloured_ones_are_read_in_colour(tmp_path: Path):
    found = [
        {"__key__": e["__key__"], "png": png(Image.fromarray(picture(int(e["__key__"]))))}
        for e in examples()
    ]
    grey = Image.fromarray(picture(5)[..., 0])
    found[5]["png"], found[6]["png"] = png(grey), png(Image.fromarray(picture(6)).quantize(9))
    write(tmp_path, iter(found))
    manifest = index(str(tmp_path), 0.2)
    assert manifest.channels == 3
    with Dataset(str(tmp_path), "train", manifest.image_size, 2**30) as train:
        pixels = train.read(0, len(train)).images.double() / 255
    assert manifest.channel_mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-6)
    assert manifest.channel_std == pytest.approx(
        pixels.std((0, 2, 3), correction=0).tolist(), abs=1e-6
    )


def test_images_that_neither_grey_nor_colour_can_hold_have_to_be_packed(tmp_path: Path):
    deep = png(Image.fromarray(picture(0)[..., 0].astype(np.uint16) * 257))
    write(tmp_path, ({"__key__": e["__key__"], "png": deep} for e in examples()))
    assert "images are of mode I;16, a dataset's are L or RGB: re-pack" in problem(tmp_path)


def test_grey_images_have_one_channel(tmp_path: Path):
    write(tmp_path, (e | {"jpg": encoded(picture(int(e["__key__"]))[..., 0])} for e in examples()))
    assert index(str(tmp_path), 0.2).channels == 1


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({"jpg": b"no image"}, "example '0007' cannot be decoded: not an image"),
        ({"jpg": encoded(picture(0))[:-60]}, "example '0007' cannot be decoded: "),
        ({"txt": b"a text"}, "example '0007' has no image (png, jpg, jpeg, webp)"),
    ],
)
def test_an_example_that_is_no_image_is_named(tmp_path: Path, files: dict[str, bytes], line: str):
    found = list(examples())
    found[7] = {"__key__": "0007", "cls": 1} | files
    write(tmp_path, iter(found))
    assert f"{tmp_path}/data-000.tar: {line}" in problem(tmp_path)


def test_a_directory_without_shards_or_with_others_is_no_dataset(tmp_path: Path):
    assert problem(tmp_path) == f"{tmp_path} holds no .tar files"
    (tmp_path / "a.tar").write_bytes(b"no tar file" * 100)
    (tmp_path / "b.tar").write_bytes(b"no tar file" * 100)
    assert f"{tmp_path}/a.tar is no tar file" in problem(tmp_path)
    for name in ("a.tar", "b.tar"):
        webdataset.TarWriter(str(tmp_path / name)).close()
    assert problem(tmp_path) == f"the shards of {tmp_path} hold no examples"
    for name in ("a.tar", "b.tar"):
        (tmp_path / name).rename(tmp_path / f"test-{name}")
    assert "none to train on" in problem(tmp_path)


def test_our_own_shards_are_indexed_as_they_were_packed(tmp_path: Path):
    packed = toy_packing.packing.pack(toy_packing.stripes(), toy_packing.RECIPE, str(tmp_path))
    found = index(str(tmp_path), 0.2, overwrite=True)
    assert found.splits == packed.splits
    assert found.class_counts == packed.class_counts
    assert (found.channel_mean, found.channel_std) == (packed.channel_mean, packed.channel_std)
