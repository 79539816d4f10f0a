import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice

import numpy as np
import pytest
import tiny_dataset
import torch
from tiny_dataset import SIDE, example, numbered, png

from ray_diffusion.data.order import Order
from ray_diffusion.data.reader import Batch, Dataset
from ray_diffusion.errors import DataError, StorageError
from ray_diffusion.storage import Directory

SIZES = [5, 9, 1, 7]
N = sum(SIZES)
SEED = 3
PLENTY = 1 << 30  # bytes


@pytest.fixture
def train(url: str) -> Iterator[Dataset]:
    tiny_dataset.write(url, numbered(SIZES))
    dataset = Dataset(url, "train", SIDE, PLENTY)
    yield dataset
    dataset.close()


def seen(batch: Batch) -> list[tuple[int, int, bool, int]]:
    """Position, number, whether it is mirrored and label of each example of a batch."""
    left, right = batch.images[:, 0, :, 0], batch.images[:, 0, :, -1]
    numbers = torch.maximum(left, right)[:, 0]
    for image, number in zip(batch.images, numbers, strict=True):
        assert image.sum() == SIDE * int(number)
    mirrored = (right > left)[:, 0]
    columns = (batch.positions, numbers, mirrored, batch.labels)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def batches(
    dataset: Dataset,
    consumed: int,
    batch: int,
    world: int,
    threads: int,
    steps: int,
    flip_seed: int | None = SEED,
) -> list[list[tuple[int, int, bool, int]]]:
    """Each global batch, sorted, as all workers together read it."""
    ranks = []
    for rank in range(world):
        order = Order(dataset.sizes, SEED)
        stream = dataset.stream(order, consumed, batch, rank, world, threads, flip_seed)
        ranks.append([seen(part) for part in islice(stream, steps)])
        stream.close()
    return [sorted(chain(*parts)) for parts in zip(*ranks, strict=True)]


@pytest.mark.parametrize(("world", "threads"), [(1, 3), (2, 0), (2, 2), (3, 0), (4, 2), (7, 1)])
def test_any_number_of_workers_and_threads_reads_the_same_batches(
    train: Dataset, world: int, threads: int
):
    # Seven steps of 8 are two and a half epochs.
    assert batches(train, 0, 8, world, threads, 7) == batches(train, 0, 8, 1, 0, 7)


def test_the_examples_are_those_the_order_names(train: Dataset):
    starts = np.cumsum([0, *SIZES])
    positions = np.arange(3 * N)
    _, shards, indices = Order(SIZES, SEED).locate(positions)
    numbers = (1 + starts[shards] + indices).tolist()
    found = list(chain(*batches(train, 0, N, 2, 0, 3)))
    assert [(p, number, label) for p, number, _, label in found] == [
        (p, number, number % 3) for p, number in zip(positions.tolist(), numbers, strict=True)
    ]


def test_a_resumed_reader_goes_on_with_the_same_examples_and_flips(train: Dataset):
    whole = list(chain(*batches(train, 0, 9, 1, 0, 8)))
    parts = [
        *batches(train, 0, 5, 2, 0, 3),
        *batches(train, 15, 7, 3, 2, 5),
        *batches(train, 50, 22, 4, 0, 1),
    ]
    assert list(chain(*parts)) == whole


def test_half_of_the_images_are_mirrored_and_not_the_same_half_each_epoch(train: Dataset):
    epochs = batches(train, 0, N, 1, 0, 40)
    halves = [{number for _, number, mirrored, _ in epoch if mirrored} for epoch in epochs]
    share = sum(map(len, halves)) / (40 * N)
    assert 0.43 < share < 0.57  # four standard deviations of 880 fair coins
    assert len(set(map(frozenset, halves))) == 40
    assert batches(train, 0, N, 1, 0, 1, flip_seed=SEED + 1)[0] != epochs[0]


def test_without_a_flip_seed_nothing_is_mirrored(train: Dataset):
    assert not any(mirrored for _, _, mirrored, _ in batches(train, 0, N, 1, 0, 1, None)[0])


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
    images = Dataset(str(tmp_path), "train", SIDE, PLENTY).read(0, 1).images
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


def test_leaving_a_stream_early_ends_its_threads(train: Dataset):
    before = threading.active_count()
    stream = train.stream(Order(train.sizes, SEED), 0, 4, 0, 1, threads=3)
    next(stream)
    assert threading.active_count() > before
    stream.close()
    assert threading.active_count() == before


def problem(url: str, threads: int = 0) -> str:
    """What is said where a dataset cannot be read."""
    with pytest.raises(DataError) as error:
        _read_all(url, threads)
    assert "\n" not in str(error.value)
    return str(error.value)


def _read_all(url: str, threads: int) -> None:
    dataset = Dataset(url, "train", SIDE, PLENTY)
    try:
        next(dataset.stream(Order(dataset.sizes, SEED), 0, len(dataset), 0, 1, threads))
    finally:
        dataset.close()


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


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("at", [0, 600, -1], ids=["header", "image", "end"])
def test_a_flipped_byte_in_a_shard_is_found(url: str, at: int, threads: int):
    shard = tiny_dataset.write(url, numbered([3, 4])).splits["train"][1]
    directory = Directory(url)
    content = bytearray(directory.read(shard.name) or b"")
    content[at] ^= 1
    directory.write(shard.name, bytes(content))
    line = problem(url, threads)
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
    with pytest.raises(StorageError) as error:
        _read_all(str(tmp_path), 0)
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
        "has shape (1, 8, 8), the manifest says (1, 4, 4)",
    ),
    "colour": (
        {"png": png(np.zeros((SIDE, SIDE, 3), np.uint8)), "cls": b"0"},
        "has shape (3, 4, 4), the manifest says (1, 4, 4)",
    ),
}


@pytest.mark.parametrize(("files", "what"), BAD.values(), ids=BAD)
def test_a_bad_example_in_an_intact_shard_is_named(url: str, files: tiny_dataset.Files, what: str):
    tiny_dataset.write(url, [[example(1)], [example(2), files, example(3)]])
    assert problem(url) == f"train-1.tar: example 'example-1' {what}"


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
        assert problem(url) == f"train-0.tar holds 3 examples, the manifest says {count}"


def test_a_shard_that_is_no_tar_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_dataset, "tar", lambda examples: b"not a tar " * 100)
    tiny_dataset.write(str(tmp_path), numbered([3]))
    assert problem(str(tmp_path)).startswith("train-0.tar is not a tar file: ")
