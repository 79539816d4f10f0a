"""A dataset of latents is read as one of images is."""

import io
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_dataset
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from tiny_dataset import CLASSES, PLENTY, SIDE, Files, numbered, opened
from torch.utils.data import DataLoader
from toy_latents import BlockMeans, by_hand, encoded

from ray_diffusion.config.schema import Data
from ray_diffusion.data import reader
from ray_diffusion.data.corruption import CorruptPolicy
from ray_diffusion.data.decode import BadExample, blank, decode
from ray_diffusion.data.latents import from_npy, to_npy
from ray_diffusion.data.manifest import Latents, Manifest, Shard, read_manifest
from ray_diffusion.data.reader import Batch, Dataset
from ray_diffusion.data.stream import Stream
from ray_diffusion.data.training_set import images_of, open_split, open_training_set
from ray_diffusion.errors import DataError
from ray_diffusion.storage import MANIFEST, Directory

SIZES = [5, 9, 1, 7]
N = sum(SIZES)
LATENTS = Latents(
    "block-means-0123456789ab", 1, SIDE // 2, 2, True, [0.0], [1.0], "builtin:digits", "f" * 16
)
shapes = arrays.array_shapes(min_dims=1, max_dims=6, max_side=4)
halves = arrays.arrays(np.float16, shapes)


@pytest.fixture
def images(tmp_path: Path) -> str:
    url = str(tmp_path / "images")
    tiny_dataset.write(url, numbered(SIZES))
    return url


@pytest.fixture
def latents(images: str, tmp_path: Path) -> str:
    url = str(tmp_path / "latents")
    encoded(images, url)
    return url


def configured(url: str, *others: str, **keys: Any) -> Data:
    return Data(dataset_url=url, mixture_urls=others, image_size=SIDE, **keys)


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(DataError) as error:
        act()
    assert "\n" not in str(error.value)
    return str(error.value)


# The file of an example


@given(halves)
def test_a_file_is_what_numpy_writes_and_reads(array: NDArray[np.float16]):
    file = io.BytesIO()
    np.save(file, array)
    assert to_npy(array) == file.getvalue()
    found = from_npy(to_npy(array), array.shape)
    assert (found.dtype, found.shape) == (np.float16, array.shape)
    assert found.tobytes() == np.load(io.BytesIO(to_npy(array))).tobytes() == array.tobytes()


def test_the_widest_latents_have_room_in_the_header():
    shape = (2, 2, 4096, 1, 1024)
    assert np.load(io.BytesIO(to_npy(np.zeros(shape, np.float16)))).shape == shape


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 4), np.float32),
        np.zeros((2, 4), np.int16),
        np.zeros((4, 2), np.float16),
        np.zeros((1, 2, 4), np.float16),
        np.asfortranarray(np.zeros((2, 4), np.float16)),
        np.zeros((2, 4), ">f2"),
    ],
    ids=["dtype", "integers", "shape", "dimensions", "order of axes", "order of bytes"],
)
def test_another_array_is_refused(array: NDArray[Any]):
    file = io.BytesIO()
    np.save(file, array)
    with pytest.raises(ValueError, match=r"^are no npy file of float16, shape \(2, 4\), as the"):
        from_npy(file.getvalue(), (2, 4))


@pytest.mark.parametrize("change", [-16, -1, 1, 2])
def test_a_file_of_another_length_is_refused(change: int):
    content = to_npy(np.zeros((2, 4), np.float16))
    content = content[:change] if change < 0 else content + bytes(change)
    with pytest.raises(ValueError, match=rf"^have {16 + change} bytes, not 16$"):
        from_npy(content, (2, 4))


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_in_one_line(content: bytes):
    with pytest.raises(ValueError, match=r"^are no npy file [^\n]*$"):
        from_npy(content, (2, 4))


class Payload:
    """Unpickled, it ends the test."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("unpickled",)


def test_a_pickle_is_never_opened():
    file = io.BytesIO()
    np.save(file, np.array([Payload()], dtype=object), allow_pickle=True)
    for content in (file.getvalue(), pickle.dumps(Payload())):
        with pytest.raises(ValueError, match="are no npy file"):
            from_npy(content, (1,))


# Decoding


def promising(classes: tuple[str, ...] = CLASSES) -> Manifest:
    return Manifest(SIDE, 1, classes, {}, {}, [], [], {}, {}, LATENTS)


def filed(array: NDArray[Any]) -> Files:
    return {"npy": to_npy(array.astype(np.float16)), "cls": b"2"}


def test_latents_and_label_are_decoded():
    array = np.arange(16).reshape(LATENTS.shape)
    found, label = decode(filed(array), promising())
    assert (found.dtype, found.tolist(), label) == (np.float16, array.tolist(), 2)
    assert decode({"npy": filed(array)["npy"]}, promising(classes=()))[1] == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_latents_that_are_not_finite_are_a_bad_example(value: float):
    array = np.zeros(LATENTS.shape)
    array[-1, -1, -1, -1, -1] = value
    with pytest.raises(BadExample, match=r"^has latents that are not finite$"):
        decode(filed(array), promising())


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({"cls": b"0"}, "has no latents (npy)"),
        ({"png": b"", "cls": b"0"}, "has no latents (npy)"),
        (
            filed(np.zeros((1, 2, 1, 2, 2))),
            "has latents that are no npy file of float16, shape (2, 2, 1, 2, 2), as the manifest "
            "says",
        ),
        ({"npy": filed(np.zeros(LATENTS.shape))["npy"]}, "has no label (cls)"),
    ],
)
def test_what_is_not_as_promised_is_a_bad_example(files: Files, what: str):
    with pytest.raises(BadExample) as error:
        decode(files, promising())
    assert str(error.value) == what


# The manifest


def test_datasets_of_images_keep_their_fingerprints_and_their_json(tmp_path: Path):
    shard = Shard("train-000000-01234567.tar", 3, 2048, 7, "ab" * 32)
    of_images = Manifest(
        image_size=4,
        channels=1,
        classes=("a", "b"),
        splits={"train": (shard,)},
        class_counts={"train": [2, 1]},
        channel_mean=[0.5],
        channel_std=[0.25],
        rejected={"duplicate": 1},
        packer={"version": 2},
    )
    assert of_images.fingerprint == "78cfa94127f499c8"  # before there were latents
    of_images.write(Directory(str(tmp_path)))
    assert "latents" not in json.loads((tmp_path / MANIFEST).read_text())
    assert read_manifest(str(tmp_path)) == of_images


def test_a_manifest_of_latents_is_read_as_it_was_written(url: str):
    written = tiny_dataset.write(url, numbered([3]), latents=LATENTS)
    assert read_manifest(url) == written
    assert read_manifest(url).latents == LATENTS


def test_the_fingerprint_hangs_on_all_of_the_latents_but_where_the_images_are():
    changes: list[dict[str, Any]] = [
        {"codec": "block-means-ba9876543210"},
        {"channels": 4},
        {"size": 1},
        {"moments": 1},
        {"mirrored": False},
        {"mean": [0.1]},
        {"std": [0.9]},
        {"images": "0" * 16},
        {},
    ]
    found = {
        replace(promising(), latents=replace(LATENTS, **change)).fingerprint for change in changes
    }
    assert len(found) == len(changes)
    moved = replace(promising(), latents=replace(LATENTS, images_url="s3://elsewhere"))
    assert moved.fingerprint == promising().fingerprint
    assert replace(promising(), latents=None).fingerprint not in found


@pytest.mark.parametrize("said", [None, {}, [], {"codec": "x"}, "block-means-0123456789ab"])
def test_damaged_latents_are_a_damaged_manifest(tmp_path: Path, said: Any):
    tiny_dataset.write(str(tmp_path), numbered([3]), latents=LATENTS)
    fields = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps(fields | {"latents": said}))
    line = refused(lambda: read_manifest(str(tmp_path)))
    assert line.startswith(f"{tmp_path}/manifest.json is damaged: ")


@pytest.mark.parametrize("of", [promising(), replace(promising(), latents=None)])
def test_the_bytes_of_an_example_are_those_that_it_takes(of: Manifest):
    assert blank(of).nbytes == of.example_bytes
    assert not blank(of).any()


# Reading


def images_by_hand(url: str, positions: list[int]) -> NDArray[np.uint8]:
    with Dataset(url, "train", SIDE, PLENTY) as dataset:
        return dataset.at(positions).images.numpy()


@pytest.mark.parametrize("moments", [1, 2])
def test_a_batch_holds_the_moments_of_its_images_and_their_labels(
    images: str, tmp_path: Path, moments: int
):
    encoded(images, str(tmp_path / "out"), moments=moments)
    positions = [21, 0, 5, 13, 0]
    with Dataset(str(tmp_path / "out"), "train", SIDE, PLENTY) as dataset:
        batch = dataset.at(positions)
    assert (batch.images.dtype, batch.images.shape) == (torch.float16, (5, moments, 2, 2))
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    by_us = np.stack([by_hand(one)[0, :moments, 0] for one in images_by_hand(images, positions)])
    assert np.abs(batch.images.numpy() - by_us).max() < 2e-3  # float16 near 3
    assert batch.labels.tolist() == [(p + 1) % 3 for p in positions]


def test_of_several_channels_the_means_stand_before_the_log_variances(tmp_path: Path):
    shape = (1, 2, 3, 2, 2)
    array = np.arange(24).reshape(shape)
    said = replace(LATENTS, channels=3, mirrored=False)
    tiny_dataset.write(str(tmp_path), [[filed(array)]], latents=said)
    with Dataset(str(tmp_path), "train", SIDE, PLENTY) as dataset:
        found = dataset.read(0, 1).images
    assert found[0].tolist() == array.reshape(6, 2, 2).tolist()


# Python warns of forks where another test left threads behind; what they hold is not used here.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_reads_the_order_and_the_mirror_images_that_one_of_pixels_reads(
    images: str, latents: str, workers: int
):
    def read(url: str) -> list[Batch]:
        stream = Stream(opened(url), seed=3, consumed=4, batch=9, mirror=True)
        loader = DataLoader(
            stream,
            batch_size=None,
            num_workers=workers,
            collate_fn=lambda batch: batch,
            multiprocessing_context="fork" if workers else None,  # `batches` spawns, which is slow
        )
        return list(islice(loader, 6))

    turned = 0
    for ours, theirs in zip(read(latents), read(images), strict=True):
        assert ours.positions.tolist() == theirs.positions.tolist()
        assert ours.labels.tolist() == theirs.labels.tolist()
        found = BlockMeans()(theirs.images).flatten(1, 2).half()
        assert torch.equal(ours.images, found)
        turned += int((theirs.images[:, 0, 0, -1] > 0).sum())
    assert 0 < turned < 6 * 9


def test_without_mirroring_no_mirror_image_is_read(images: str, latents: str):
    (batch,) = islice(Stream(opened(latents), seed=3, consumed=0, batch=N), 1)
    (pixels,) = islice(Stream(opened(images), seed=3, consumed=0, batch=N), 1)
    assert torch.equal(batch.images, BlockMeans()(pixels.images).flatten(1, 2).half())


@pytest.mark.parametrize(("short_by", "reads"), [(0, N), (1, 2 * N)])
def test_what_is_kept_is_counted_in_bytes(
    latents: str, monkeypatch: pytest.MonkeyPatch, short_by: int, reads: int
):
    monkeypatch.setattr(reader, "DECODED_BYTES", N * 2 * 2 * 4 * 2 - short_by)
    decoded = []
    monkeypatch.setattr(reader, "decode", lambda *of: decoded.append(1) or decode(*of))
    with Dataset(latents, "train", SIDE, PLENTY) as dataset:
        for _ in range(2):
            dataset.read(0, N)
    assert len(decoded) == reads


def test_bad_latents_are_masked_by_zeros_or_have_a_substitute(tmp_path: Path):
    good, bad = filed(np.ones(LATENTS.shape)), filed(np.full(LATENTS.shape, np.nan))
    tiny_dataset.write(str(tmp_path), [[bad, good]], latents=LATENTS)
    line = refused(lambda: Dataset(str(tmp_path), "train", SIDE, PLENTY).read(0, 2))
    assert line == f"{tmp_path}/train-0.tar: example 'example-0' has latents that are not finite"
    for action, first in (("mask", 0), ("substitute", 1)):
        policy = CorruptPolicy(action, 1.0)
        with Dataset(str(tmp_path), "train", SIDE, PLENTY, policy) as dataset:
            batch = dataset.read(0, 2)
        assert batch.images.dtype == torch.float16
        assert batch.images[:, 0, 0, 0].tolist() == [first, 1]
        assert batch.weights.tolist() == [float(first), 1.0]
        assert batch.bad == 1


# Opening


def test_what_a_configuration_says_of_latents_may_be_left_out_or_right(latents: str):
    said: dict[str, Any] = {"codec": LATENTS.codec, "latent_size": 2, "horizontal_flip": True}
    for keys in ({}, said):
        data = configured(latents, **keys)
        assert len(open_training_set(data)) == N
        assert len(open_split(data, "val")) == 1


@pytest.mark.parametrize(("key", "value"), [("codec", LATENTS.codec), ("latent_size", 2)])
def test_images_are_no_latents(images: str, key: str, value: Any):
    data = configured(images, **{key: value})
    assert refused(lambda: open_training_set(data)) == refused(lambda: open_split(data, "val"))
    assert refused(lambda: open_split(data, "val")) == (
        f"data.{key}: {value}, but {images} holds images; encode it with "
        f"`python -m ray_diffusion.encode`, or leave data.{key} out"
    )


def test_latents_of_another_codec_are_refused(latents: str):
    assert refused(lambda: open_split(configured(latents, codec="identity-00"), "val")) == (
        f"data.codec: identity-00, but {latents} was encoded by {LATENTS.codec}; choose another "
        "data.dataset_url, or leave data.codec out"
    )


def test_latents_of_another_size_are_refused(latents: str):
    assert refused(lambda: open_split(configured(latents, latent_size=4), "val")) == (
        f"data.latent_size: 4, but {latents} holds latents of side 2; leave data.latent_size out"
    )


def test_mirror_images_that_were_not_encoded_are_refused(images: str, tmp_path: Path):
    url = str(tmp_path / "plain")
    encoded(images, url, mirrored=False)
    assert len(open_training_set(configured(url))) == N
    assert refused(lambda: open_training_set(configured(url, horizontal_flip=True))) == (
        f"data.horizontal_flip: {url} was encoded without mirror images; encode it again with "
        "horizontal_flip=true, or set data.horizontal_flip=false"
    )
    open_split(configured(url, horizontal_flip=True), "val").close()  # which mirrors nothing


def test_the_size_of_images_is_asked_for_not_that_of_latents(latents: str):
    line = refused(lambda: Dataset(latents, "train", SIDE // 2, PLENTY))
    assert line == f"{latents} holds images of 4 pixels, data.image_size asks for 2"


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (replace(LATENTS, codec="identity-00"), f"codec identity-00, {{one}} {LATENTS.codec}"),
        (replace(LATENTS, channels=4), "latent channels 4, {one} 1"),
        (replace(LATENTS, size=1), "latent size 1, {one} 2"),
        (replace(LATENTS, moments=1), "moments 1, {one} 2"),
        (replace(LATENTS, mirrored=False), "mirror images False, {one} True"),
        (None, f"codec None, {{one}} {LATENTS.codec}"),
    ],
)
def test_latents_that_do_not_go_together_are_refused(
    tmp_path: Path, said: Latents | None, what: str
):
    one, two = f"{tmp_path}/one", f"{tmp_path}/two"
    tiny_dataset.write(one, numbered([3]), latents=LATENTS)
    tiny_dataset.write(two, numbered([3]), latents=said)
    assert refused(lambda: open_training_set(configured(one, two))) == (
        f"data.mixture_urls: {two} has {what.format(one=one)}; mixed datasets must agree"
    )


def test_latents_of_one_codec_are_mixed(latents: str):
    assert len(open_training_set(configured(latents, latents))) == 2 * N
    found = list(islice(Stream(opened(latents, latents), seed=0, consumed=0, batch=7), 6))
    assert {batch.images.dtype for batch in found} == {torch.float16}


def test_images_among_latents_are_refused_whichever_comes_first(latents: str, images: str):
    line = refused(lambda: open_training_set(configured(images, latents)))
    assert f"{latents} has codec {LATENTS.codec}, {images} None" in line


# The images behind latents


def test_the_images_of_latents_are_those_that_were_encoded(images: str, latents: str):
    data = configured(
        latents, latents, mixture_weights=(1, 2), codec=LATENTS.codec, latent_size=2, workers=3
    )
    assert images_of(data) == configured(images, workers=3)
    assert len(open_split(images_of(data), "val")) == 1


def test_the_images_of_images_are_they_themselves(images: str):
    data = configured(images, images, mixture_weights=(1, 2))
    assert images_of(data) is data


def test_other_images_in_the_place_of_those_that_were_encoded_are_refused(
    images: str, latents: str
):
    before = read_manifest(images).fingerprint
    now = tiny_dataset.write(images, numbered([4])).fingerprint
    assert refused(lambda: images_of(configured(latents))) == (
        f"{latents} was encoded from {images} with fingerprint {before}; what is there now has "
        f"fingerprint {now}: encode it again"
    )


def test_images_that_are_gone_are_named(images: str, latents: str):
    Directory(images).remove(MANIFEST)
    line = refused(lambda: images_of(configured(latents)))
    assert line.startswith(f"{images} is not a dataset: ")
