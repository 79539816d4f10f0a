from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import tiny_dataset
import torch
from tiny_dataset import PLENTY, SIDE, example, numbered, png, seen

from ray_diffusion.data import reader
from ray_diffusion.data.decode import decode
from ray_diffusion.data.reader import DECODED_BYTES, READ_OPEN, Dataset
from ray_diffusion.errors import DataError, StorageError
from ray_diffusion.storage import Directory

SIZES = [5, 9, 1, 7]


@pytest.fixture
def train(url: str) -> Iterator[Dataset]:
    tiny_dataset.write(url, numbered(SIZES))
    with Dataset(url, "train", SIDE, PLENTY) as dataset:
        yield dataset


def test_reading_a_split_covers_it_once_in_the_order_of_its_shards(url: str):
    tiny_dataset.write(url, numbered([1]), numbered([4, 1, 6], first=101))
    val = Dataset(url, "val", SIDE, PLENTY)
    assert len(val) == 11
    everything = [(i, 101 + i, False, (101 + i) % 3) for i in range(11)]
    assert seen(val.read(0, 11)) == everything
    pieces = [seen(val.read(start, start + 4)) for start in range(0, 11, 4)]
    assert list(chain(*pieces)) == everything
    val.close()


def test_batches_are_uint8_images_and_int64_labels(train: Dataset):
    batch = train.read(2, 5)
    assert (batch.images.shape, batch.images.dtype) == ((3, 1, SIDE, SIDE), torch.uint8)
    assert (batch.labels.shape, batch.labels.dtype) == ((3,), torch.int64)


def test_colour_images_have_three_channels(tmp_path):
    pixels = np.arange(SIDE * SIDE * 3, dtype=np.uint8).reshape(SIDE, SIDE, 3)
    tiny_dataset.write(str(tmp_path), [[{"png": png(pixels), "cls": b"0"}]], channels=3)
    with Dataset(str(tmp_path), "train", SIDE, PLENTY) as dataset:
        images = dataset.read(0, 1).images
    assert images[0].permute(1, 2, 0).numpy().tolist() == pixels.tolist()


def test_a_dataset_without_classes_has_label_0(tmp_path):
    files = [{"png": example(i)["png"]} for i in (1, 2)]
    tiny_dataset.write(str(tmp_path), [files], classes=())
    assert Dataset(str(tmp_path), "train", SIDE, PLENTY).read(0, 2).labels.tolist() == [0, 0]


def test_files_other_than_image_and_label_are_no_matter(tmp_path):
    files = {"txt": b"a caption", "json": b"{}"}
    tiny_dataset.write(str(tmp_path), [[files | example(1), example(2) | files]])
    batch = Dataset(str(tmp_path), "train", SIDE, PLENTY).read(0, 2)
    assert [number for _, number, _, _ in seen(batch)] == [1, 2]


def test_examples_are_read_in_any_order_and_more_than_once(train: Dataset):
    positions = [21, 0, 5, 13, 14, 0, 15, 4]
    batch = train.at(positions)
    assert [(one.position, one.number) for one in seen(batch)] == [(p, p + 1) for p in positions]


def test_a_split_of_more_shards_than_are_kept_open_is_read(url: str):
    count = 2 * READ_OPEN + 3
    tiny_dataset.write(url, numbered([1] * count))
    with Dataset(url, "train", SIDE, PLENTY) as dataset:
        for _ in range(2):
            numbers = [one.number for one in seen(dataset.read(0, count))]
            assert numbers == list(range(1, count + 1))


@pytest.mark.parametrize(("count", "positions"), [(1, [0]), (4, [0, 5, 11, 16]), (22, range(22))])
def test_positions_are_spread_evenly(train: Dataset, count: int, positions: list[int]):
    assert train.spread(count) == list(positions)
    assert train.spread(100) == list(range(22))


def test_a_closed_dataset_can_be_read_again(train: Dataset):
    first = seen(train.read(0, 3))
    train.close()
    train.close()
    assert seen(train.read(0, 3)) == first


def test_a_batch_does_not_share_memory_with_what_is_kept_for_the_next(train: Dataset):
    train.read(0, 3).images.zero_()
    assert [one.number for one in seen(train.read(0, 3))] == [1, 2, 3]


@pytest.mark.parametrize(("kept", "reads"), [(DECODED_BYTES, 22), (0, 44)])
def test_small_images_are_decoded_once_and_large_sets_not_kept(
    url: str, monkeypatch: pytest.MonkeyPatch, kept: int, reads: int
):
    monkeypatch.setattr(reader, "DECODED_BYTES", kept)
    decoded = []
    monkeypatch.setattr(reader, "decode", lambda *of: decoded.append(1) or decode(*of))
    tiny_dataset.write(url, numbered(SIZES))
    with Dataset(url, "train", SIDE, PLENTY) as dataset:
        for _ in range(2):
            dataset.read(0, 22)
    assert len(decoded) == reads


def problem(url: str) -> str:
    """What is said where a dataset cannot be read."""
    with Dataset(url, "train", SIDE, PLENTY) as dataset, pytest.raises(DataError) as error:
        dataset.read(0, len(dataset))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_another_image_size_is_refused_before_anything_is_read(url: str):
    tiny_dataset.write(url, numbered([2]))
    with pytest.raises(DataError) as error:
        Dataset(url, "train", 32, PLENTY)
    assert str(error.value) == f"{url} holds images of 4 pixels, data.image_size asks for 32"


@pytest.mark.parametrize("val", [[], [[]]], ids=["no shards", "an empty shard"])
def test_an_empty_split_is_refused(url: str, val: list[list[tiny_dataset.Files]]):
    tiny_dataset.write(url, numbered([2]), val)
    with pytest.raises(DataError) as error:
        Dataset(url, "val", SIDE, PLENTY)
    assert str(error.value) == f"{url} has no examples in its 'val' split"


@pytest.mark.parametrize("at", [0, 600, -1], ids=["header", "image", "end"])
def test_a_flipped_byte_in_a_shard_is_found(url: str, at: int):
    shard = tiny_dataset.write(url, numbered([3, 4])).splits["train"][1]
    directory = Directory(url)
    content = bytearray(directory.read(shard.name) or b"")
    content[at] ^= 1
    directory.write(shard.name, bytes(content))
    line = problem(url)
    assert line.startswith(f"shard {url}/train-1.tar is damaged: {shard.bytes} bytes, CRC ")
    assert line.endswith("; pack the dataset again")


def test_a_truncated_shard_is_found(url: str):
    shard = tiny_dataset.write(url, numbered([3, 4])).splits["train"][1]
    directory = Directory(url)
    directory.write(shard.name, (directory.read(shard.name) or b"")[:-512])
    assert problem(url).startswith(
        f"shard {url}/train-1.tar is damaged: {shard.bytes - 512} bytes, CRC "
    )


def test_a_missing_shard_is_named(url: str):
    tiny_dataset.write(url, numbered([3, 4]))
    Directory(url).remove("train-1.tar")
    assert problem(url).startswith(f"shard {url}/train-1.tar ")


def test_a_directory_in_the_place_of_a_shard_is_one_line(tmp_path):
    tiny_dataset.write(str(tmp_path), numbered([3]))
    (tmp_path / "train-0.tar").unlink()
    (tmp_path / "train-0.tar").mkdir()
    with (
        Dataset(str(tmp_path), "train", SIDE, PLENTY) as dataset,
        pytest.raises(StorageError) as error,
    ):
        dataset.read(0, 1)
    assert str(error.value) == f"cannot read {tmp_path}/train-0.tar: Is a directory"


BAD = {
    "no image at all": ({"png": b"not a png", "cls": b"0"}, "cannot be decoded: not an image"),
    "truncated": (
        example(7) | {"png": example(7)["png"][:-20]},
        "cannot be decoded: image file is truncated",
    ),
    "no image": ({"cls": b"0"}, "has no image (png, jpg, jpeg, webp)"),
    "no label": ({"png": example(7)["png"]}, "has no label (cls)"),
    "label too high": (example(7) | {"cls": b"3"}, "has label b'3', the manifest says 0 to 2"),
    "negative label": (example(7) | {"cls": b"-1"}, "has label b'-1', the manifest says 0 to 2"),
    "label in words": (example(7) | {"cls": b"cat"}, "has label b'cat', the manifest says 0 to 2"),
    "other side": (
        {"png": png(np.zeros((8, 8), np.uint8)), "cls": b"0"},
        "has shape (1, 8, 8) of uint8, the manifest says (1, 4, 4) of uint8",
    ),
    "colour": (
        {"png": png(np.zeros((SIDE, SIDE, 3), np.uint8)), "cls": b"0"},
        "has shape (3, 4, 4) of uint8, the manifest says (1, 4, 4) of uint8",
    ),
}


@pytest.mark.parametrize(("files", "what"), BAD.values(), ids=BAD)
def test_a_bad_example_in_an_intact_shard_is_named(url: str, files: tiny_dataset.Files, what: str):
    tiny_dataset.write(url, [[example(1)], [example(2), files, example(3)]])
    assert problem(url) == f"{url}/train-1.tar: example 'example-1' {what}"


def test_a_damaged_png_is_read_or_refused_but_never_a_crash(tmp_path):
    whole = example(7)["png"]
    damaged = [whole[:i] + bytes([whole[i] ^ 0x40]) + whole[i + 1 :] for i in range(len(whole))]
    tiny_dataset.write(str(tmp_path), [[example(7) | {"png": content} for content in damaged]])
    dataset = Dataset(str(tmp_path), "train", SIDE, PLENTY)
    refused = 0
    for i in range(len(damaged)):
        try:
            dataset.read(i, i + 1)
        except DataError:
            refused += 1
    assert refused > len(damaged) / 2
    dataset.close()


def test_a_shard_with_fewer_or_more_examples_than_said_is_refused(url: str):
    said = tiny_dataset.write(url, numbered([3])).splits
    for count in (2, 4):
        wrong = {"train": (replace(said["train"][0], examples=count),)}
        tiny_dataset.write(url, numbered([3]), splits=said | wrong)
        assert problem(url) == f"{url}/train-0.tar holds 3 examples, the manifest says {count}"


def test_a_shard_that_is_no_tar_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_dataset, "tar", lambda examples: b"not a tar " * 100)
    tiny_dataset.write(str(tmp_path), numbered([3]))
    assert problem(str(tmp_path)).startswith(f"{tmp_path}/train-0.tar is not a tar file: ")
