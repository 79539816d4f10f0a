"""A dataset of images becomes one of latents: what is in it, and whatever happens meanwhile."""

import io
import json
import os
import pickle
import random
import tarfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_dataset
import torch
import toy_packing
from tiny_dataset import numbered, png
from torch import Tensor
from toy_latents import BlockMeans, by_hand, encoded, publish_codec
from toy_packing import Killed
from toy_source import toy_source

from ray_diffusion.data import manifest as manifests
from ray_diffusion.data.manifest import Manifest, read_manifest
from ray_diffusion.data.packing.encode import earlier_latents, encode
from ray_diffusion.data.packing.latent_shard import BATCH
from ray_diffusion.data.packing.output import NOTES
from ray_diffusion.data.packing.pack import pack
from ray_diffusion.data.packing.source import Source
from ray_diffusion.data.packing.stages import Runner
from ray_diffusion.data.packing.stats import stats
from ray_diffusion.data.packing.verify import unlisted, verify
from ray_diffusion.data.reader import Dataset
from ray_diffusion.errors import DataError, RayDiffusionError, StorageError, UsageError
from ray_diffusion.storage import MANIFEST, Directory

pytest_plugins = ["object_store"]

PLENTY = 1 << 30  # bytes
COLOUR = BlockMeans(channels=3)
OTHER = "block-means-ba9876543210"
TASKS = 6  # of sixty images, ten in a shard


def colours() -> Source:
    """Sixty colour images of 8x8 pixels and three classes; 40 to train on, 20 not."""
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), np.uint8)
    source = toy_source("colours", toy_packing.CLASSES, images)
    records = [
        record._replace(split="train" if i % 3 else "val")
        for i, record in enumerate(source.records)
    ]
    return replace(source, records=records)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four shards to train on, two to validate."""
    url = str(tmp_path_factory.mktemp("source"))
    pack(colours(), toy_packing.RECIPE, url)
    return url


@pytest.fixture(scope="module")
def whole(source: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes | None]:
    """What an undisturbed encoder leaves."""
    out = str(tmp_path_factory.mktemp("whole"))
    encode(source, COLOUR, out, mirrored=True)
    return toy_packing.content(out)


def examples(url: str, split: str) -> list[dict[str, Any]]:
    """The files of each example of a split by extension, and its key, as tar has them."""
    found: dict[str, dict[str, Any]] = {}
    for shard in read_manifest(url).splits[split]:
        with tarfile.open(Path(url, shard.name)) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                file = tar.extractfile(member)
                assert file is not None
                found.setdefault(key, {"__key__": key})[extension] = file.read()
    return list(found.values())


def refused(kind: type[RayDiffusionError], act: Callable[[], object]) -> str:
    with pytest.raises(kind) as error:
        act()
    assert "\n" not in str(error.value)
    return str(error.value)


# What is in it


@pytest.mark.parametrize(("mirrored", "moments"), [(True, 2), (False, 2), (True, 1), (False, 1)])
def test_each_image_is_replaced_by_its_latents_and_nothing_else_changes(
    source: str, tmp_path: Path, mirrored: bool, moments: int
):
    encoder = BlockMeans(channels=3, moments=moments)
    manifest = encode(source, encoder, str(tmp_path), mirrored)
    assert manifest.latents is not None
    for split in ("train", "val"):
        before, after = examples(source, split), examples(str(tmp_path), split)
        images = Dataset(source, split, 8, PLENTY).read(0, len(before)).images.numpy()
        for image, one, theirs in zip(images, after, before, strict=True):
            found = np.load(io.BytesIO(one.pop("npy")), allow_pickle=False)
            theirs.pop("png")
            assert one == theirs  # key and label
            assert (found.dtype, found.shape) == (np.float16, manifest.latents.shape)
            assert np.abs(found - by_hand(image, mirrored, moments)).max() < 2e-3


def test_captions_are_kept_and_other_files_are_not(tmp_path: Path):
    files = tiny_dataset.example(7) | {"txt": "ein Bär\n".encode(), "json": b"{}"}
    tiny_dataset.write(f"{tmp_path}/images", [[files, tiny_dataset.example(9)]])
    encoded(f"{tmp_path}/images", f"{tmp_path}/out")
    first, second = examples(f"{tmp_path}/out", "train")
    assert first.keys() == {"__key__", "npy", "cls", "txt"}
    assert (first["txt"], first["cls"]) == (files["txt"], b"1")
    assert second.keys() == {"__key__", "npy", "cls"}


def test_the_manifest_says_of_the_images_what_theirs_says(source: str, tmp_path: Path):
    images, found = read_manifest(source), encode(source, COLOUR, str(tmp_path), mirrored=True)
    assert read_manifest(str(tmp_path)) == found
    assert replace(found, latents=None, splits=images.splits, packer=images.packer) == images
    for split, shards in found.splits.items():
        theirs = [shard.examples for shard in images.splits[split]]
        assert [shard.examples for shard in shards] == theirs
        for number, shard in enumerate(shards):
            assert shard.name == f"{split}-{number:06d}-{shard.sha256[:8]}.tar"
    latents = found.latents
    assert latents is not None
    assert latents.shape == (2, 2, 3, 4, 4)
    assert (latents.codec, latents.mirrored) == (COLOUR.fingerprint, True)
    assert (latents.images_url, latents.images) == (source, images.fingerprint)


@pytest.mark.parametrize(("mirrored", "moments"), [(True, 2), (False, 1)])
def test_mean_and_deviation_are_those_of_draws_of_the_train_split(
    source: str, tmp_path: Path, mirrored: bool, moments: int
):
    encoder = BlockMeans(channels=3, moments=moments)
    latents = encode(source, encoder, str(tmp_path), mirrored).latents
    assert latents is not None
    stored = [np.load(io.BytesIO(one["npy"])) for one in examples(str(tmp_path), "train")]
    z = np.stack(stored).astype(np.float64)  # (N, variants, moments, C, h, w)
    mean, axes = z[:, :, 0], (0, 1, 3, 4)
    variance = mean.var(axes) + (np.exp(z[:, :, 1]).mean(axes) if moments == 2 else 0)
    assert latents.mean == pytest.approx(mean.mean(axes), rel=1e-12)
    assert latents.std == pytest.approx(np.sqrt(variance), rel=1e-12)


def test_images_are_encoded_in_batches_that_depend_on_the_shard_alone(tmp_path: Path):
    sizes: list[int] = []

    def met(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return images

    tiny_dataset.write(f"{tmp_path}/images", numbered([2 * BATCH + 3, 5]), numbered([BATCH]))
    encoded(f"{tmp_path}/images", f"{tmp_path}/out", mirrored=False, met=met)
    assert sizes == [BATCH, BATCH, 3, 5, BATCH]


# Whoever does it


def backwards(function: Callable[[Any], Any], tasks: Iterable[Any], /) -> Iterator[Any]:
    """A runner whose last task is done first."""
    done = [function(task) for task in reversed(list(tasks))]
    return iter(done[::-1])


def threads(function: Callable[[Any], Any], tasks: Iterable[Any], /) -> Iterator[Any]:
    """A runner that takes two tasks at a time, in an order of its own."""
    drawn = list(tasks)
    order = random.Random(0).sample(range(len(drawn)), len(drawn))
    with ThreadPoolExecutor(2) as pool:
        under_way = {i: pool.submit(function, drawn[i]) for i in order}
        yield from (under_way[i].result() for i in range(len(drawn)))


@pytest.mark.parametrize("run", [backwards, threads])
def test_the_same_request_writes_the_same_bytes_whoever_does_its_tasks(
    source: str, remote: str, whole: dict[str, bytes | None], run: Runner
):
    told: list[tuple[str, int, int]] = []
    encode(source, COLOUR, remote, True, run, lambda *said: told.append(said))
    assert toy_packing.content(remote) == whole
    assert told == [("encoded", done, 60) for done in range(10, 61, 10)]


def logging(function: Callable[[Any], Any], tasks: Iterable[Any], log: list[str], last: int) -> Any:
    """A runner that writes tasks down and does not survive the ``last``, counted from 0."""
    for task in tasks:
        if len(log) == last:
            raise Killed
        log.append(task.name)
        yield function(task)


@pytest.mark.parametrize("last", range(TASKS))
def test_an_encoder_that_was_killed_at_any_task_goes_on_where_it_was(
    source: str, tmp_path: Path, whole: dict[str, bytes | None], last: int
):
    before, after = list[str](), list[str]()
    with pytest.raises(Killed):
        encode(source, COLOUR, str(tmp_path), True, partial(logging, log=before, last=last))
    assert not (tmp_path / MANIFEST).exists()
    encode(source, COLOUR, str(tmp_path), True, partial(logging, log=after, last=TASKS))
    assert len(before) == last
    assert len({*before, *after}) == len(before) + len(after) == TASKS
    assert toy_packing.content(str(tmp_path)) == whole


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("last", range(1, 2 * TASKS + 2, 3))
def test_an_encoder_that_was_killed_at_any_upload_leaves_no_half_dataset(
    source: str,
    tmp_path: Path,
    whole: dict[str, bytes | None],
    monkeypatch: pytest.MonkeyPatch,
    before: bool,
    last: int,
):
    put, calls = Directory.put, iter(range(1, 1000))

    def dying(self: Directory, path: Path, name: str) -> None:
        mortal = next(calls) == last
        if mortal and before:
            raise Killed
        put(self, path, name)
        if mortal:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Directory, "put", dying)
        with pytest.raises(Killed):
            encode(source, COLOUR, str(tmp_path), mirrored=True)
    there = (tmp_path / MANIFEST).exists()
    assert there == (last == 2 * TASKS + 1 and not before)
    encode(source, COLOUR, str(tmp_path), mirrored=True, overwrite=there)
    assert toy_packing.content(str(tmp_path)) == whole


def test_shards_that_are_gone_or_spoiled_are_encoded_again(
    source: str, tmp_path: Path, whole: dict[str, bytes | None]
):
    before, after = list[str](), list[str]()
    with pytest.raises(Killed):
        encode(source, COLOUR, str(tmp_path), True, partial(logging, log=before, last=4))
    lost, spoiled, *_ = sorted(tmp_path.glob("*.tar"))
    lost.unlink()
    spoiled.write_bytes(b"half")
    encode(source, COLOUR, str(tmp_path), True, partial(logging, log=after, last=TASKS))
    assert after == ["train-000000", "train-000001", "val-000000", "val-000001"]
    assert toy_packing.content(str(tmp_path)) == whole


def test_shards_that_were_lost_meanwhile_leave_no_dataset(source: str, tmp_path: Path):
    def losing(function: Callable[[Any], Any], tasks: Iterable[Any], /) -> Iterator[Any]:
        done = list(map(function, tasks))
        os.remove(tmp_path / done[2].shard.name)
        return iter(done)

    line = refused(StorageError, lambda: encode(source, COLOUR, str(tmp_path), True, losing))
    assert line.startswith(f"1 of 6 shards were written and are not in {tmp_path}, ")
    assert not (tmp_path / MANIFEST).exists()


def test_a_request_that_was_fulfilled_is_not_done_again(source: str, tmp_path: Path):
    first = encode(source, COLOUR, str(tmp_path), mirrored=True)
    assert earlier_latents(Directory(str(tmp_path)), source, COLOUR.fingerprint, True) == first
    nobody = partial(logging, log=[], last=0)
    assert encode(source, COLOUR, str(tmp_path), True, nobody) == first
    assert not (tmp_path / NOTES).exists()


@pytest.mark.parametrize("change", ["codec", "mirrored", "images"])
def test_another_request_takes_nothing_from_an_interrupted_one_and_clears_it_away(
    source: str, tmp_path: Path, change: str
):
    encoder, mirrored, images = COLOUR, True, f"{tmp_path}/images"
    pack(colours(), toy_packing.RECIPE, images)
    with pytest.raises(Killed):
        encode(images, encoder, f"{tmp_path}/out", True, partial(logging, log=[], last=3))
    if change == "codec":
        encoder = replace(encoder, fingerprint=OTHER, moments=1)
    elif change == "mirrored":
        mirrored = False
    else:
        fewer = colours()
        fewer = replace(fewer, records=fewer.records[:-1])
        pack(fewer, toy_packing.RECIPE, images, overwrite=True)
    encode(images, encoder, f"{tmp_path}/out", mirrored)
    encode(images, encoder, f"{tmp_path}/fresh", mirrored)
    assert toy_packing.content(f"{tmp_path}/out") == toy_packing.content(f"{tmp_path}/fresh")


# What is there already


def test_another_dataset_is_replaced_only_where_that_is_asked_for(source: str, tmp_path: Path):
    out = str(tmp_path)
    assert earlier_latents(Directory(out), source, COLOUR.fingerprint, True) is None
    before = encode(source, COLOUR, out, mirrored=True)
    for encoder, mirrored in ((COLOUR, False), (replace(COLOUR, fingerprint=OTHER), True)):
        line = refused(UsageError, lambda: encode(source, encoder, out, mirrored))  # noqa: B023
        assert line == (
            f"{out} holds another dataset (fingerprint {before.fingerprint}); choose another out, "
            "or overwrite=true"
        )
        codec = encoder.fingerprint
        asked = partial(earlier_latents, Directory(out), source, codec, mirrored)
        assert refused(UsageError, asked) == line
    assert read_manifest(out) == before
    after = encode(source, COLOUR, out, mirrored=False, overwrite=True)
    assert read_manifest(out) == after
    assert unlisted(out, after) == []


def test_an_interrupted_encoder_leaves_the_dataset_that_was_there(source: str, tmp_path: Path):
    out = str(tmp_path)
    publish_codec(out, COLOUR.fingerprint, tmp_path / "scratch")
    before = encode(source, COLOUR, out, mirrored=True)
    publish_codec(out, OTHER, tmp_path / "scratch")
    other = replace(COLOUR, fingerprint=OTHER, moments=1)
    with pytest.raises(Killed):
        encode(source, other, out, True, partial(logging, log=[], last=5), overwrite=True)
    assert read_manifest(out) == before
    assert verify(out, before) == []
    after = encode(source, other, out, mirrored=True, overwrite=True)
    assert verify(out, after) == []
    assert not (tmp_path / COLOUR.fingerprint).exists()


def test_an_encoder_that_was_killed_before_the_manifest_leaves_the_dataset_that_was_there(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def dying(self: Manifest, directory: Directory) -> None:
        raise Killed

    out = str(tmp_path / "out")
    publish_codec(out, COLOUR.fingerprint, tmp_path / "scratch")
    before = encode(source, COLOUR, out, mirrored=True)
    monkeypatch.setattr(Manifest, "write", dying)
    with pytest.raises(Killed):
        encode(source, replace(COLOUR, fingerprint=OTHER), out, mirrored=False, overwrite=True)
    assert verify(out, before) == []


def test_what_belongs_to_others_stays_and_what_an_earlier_packer_left_goes(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(manifests, "TABLE_FROM", 3)
    out = str(tmp_path / "out")
    pack(colours(), toy_packing.RECIPE, out)
    names = {"notes.txt", "run-0123456789ab", "block-means-0123", MANIFEST}
    for folder in ("run-0123456789ab", "block-means-0123"):
        Directory(out).write(f"{folder}/mine", b"")
    for codec in (OTHER, COLOUR.fingerprint):
        publish_codec(out, codec, tmp_path / "scratch")
    Directory(out).write("notes.txt", b"")
    found = encode(source, COLOUR, out, mirrored=True, overwrite=True)
    shards = {shard.name for shards in found.splits.values() for shard in shards}
    table = f"shards-{found.fingerprint}.parquet"
    assert {*Directory(out).names()} == names | shards | {COLOUR.fingerprint, table}
    assert unlisted(out, found) == ["block-means-0123/mine", "notes.txt", "run-0123456789ab/mine"]
    pack(colours(), toy_packing.RECIPE, out, overwrite=True)
    assert not Path(out, COLOUR.fingerprint).exists()


# Where it is


def test_images_elsewhere_are_fetched_into_the_cache(remote: str, cache: Path):
    tiny_dataset.write(f"{remote}/images", numbered([3, 4]))
    found = encoded(f"{remote}/images", f"{remote}/out")
    assert len(list((cache / "shards").glob("*.tar"))) == 3
    assert found.latents is not None
    assert found.latents.images_url == f"{remote}/images"
    assert verify(f"{remote}/out", found)[0].endswith(
        f"{found.latents.codec}, the codec of its latents, has no manifest.json"
    )


@pytest.mark.parametrize(("image_size", "side"), [(None, 4), (4, 2)])
def test_a_built_in_dataset_is_packed_at_the_size_asked_for(
    tmp_path: Path, image_size: int | None, side: int
):
    found = encode(
        "builtin:digits", BlockMeans(), str(tmp_path), mirrored=False, image_size=image_size
    )
    assert found.latents is not None
    assert (found.latents.size, found.image_size) == (side, 2 * side)
    assert found.latents.images_url == "builtin:digits"


def test_a_path_is_written_down_in_full(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(Path(source).parent)
    found = encode(Path(source).name, COLOUR, str(tmp_path), mirrored=False, image_size=8)
    assert found.latents is not None
    assert found.latents.images_url == source


# botocore and moto call what newer Pythons deprecate.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_killed_encoder_goes_on_in_a_bucket(
    source: str, bucket: str, tmp_path: Path, whole: dict[str, bytes | None]
):
    pack(colours(), toy_packing.RECIPE, f"{bucket}/images")
    out, after = f"{bucket}/latents", list[str]()
    publish_codec(out, COLOUR.fingerprint, tmp_path)
    with pytest.raises(Killed):
        encode(f"{bucket}/images", COLOUR, out, True, partial(logging, log=[], last=4))
    run = partial(logging, log=after, last=TASKS)
    found = encode(f"{bucket}/images", COLOUR, out, True, run)
    assert len(after) == 2
    tars = {name: shard for name, shard in whole.items() if name.endswith(".tar")}
    assert tars.items() <= toy_packing.content(out).items()
    assert read_manifest(out).fingerprint == json.loads(whole[MANIFEST] or b"")["fingerprint"]
    assert verify(out, found) == []
    assert unlisted(out, found) == []


# What cannot be


def test_latents_are_not_encoded_again(source: str, tmp_path: Path):
    latents = f"{tmp_path}/latents"
    encode(source, COLOUR, latents, mirrored=False)
    assert refused(UsageError, lambda: encode(latents, COLOUR, f"{tmp_path}/out", False)) == (
        f"source: {latents} holds latents already, encoded by {COLOUR.fingerprint}; encode the "
        f"images that they were made of, {source}"
    )


def test_tasks_carry_no_list_of_all_shards(source: str, tmp_path: Path):
    def light(function: Callable[[Any], Any], tasks: Iterable[Any], /) -> Iterator[Any]:
        for task in tasks:
            assert task.images.splits == {}
            yield function(pickle.loads(pickle.dumps(task)))

    encode(source, COLOUR, str(tmp_path), True, light)


def test_images_that_the_codec_cannot_cut_are_refused(source: str, tmp_path: Path):
    encoder = replace(COLOUR, factor=3)
    assert refused(UsageError, lambda: encode(source, encoder, str(tmp_path), False)) == (
        f"codec: {COLOUR.fingerprint} makes one latent of 3x3 pixels, which images of 8 pixels "
        "cannot be cut into; pack them at another image_size, or choose another codec"
    )


def test_the_source_is_not_overwritten(source: str):
    for out in (source, f"{source}/", f"file://{source}"):
        line = refused(UsageError, lambda: encode(source, COLOUR, out, True, overwrite=True))  # noqa: B023
        assert line == f"out: {source} is the source itself; choose another"


def test_another_size_than_the_images_have_is_refused(source: str, tmp_path: Path):
    assert refused(
        UsageError, lambda: encode(source, COLOUR, str(tmp_path), False, image_size=16)
    ) == (f"image_size: 16, but {source} holds images of 8 pixels; leave it out")


@pytest.mark.parametrize(
    ("value", "shown"), [(1e5, "100000"), (float("nan"), "nan"), (float("-inf"), "inf")]
)
def test_latents_without_room_in_float16_name_their_example(
    tmp_path: Path, value: float, shown: str
):
    tiny_dataset.write(f"{tmp_path}/images", numbered([40]))

    def met(x0: Tensor) -> Tensor:
        number = ((x0[:, 0, 0, 0] + 1) * 127.5).round()  # of the example, counted from 1
        return torch.where((number == 36)[:, None, None, None], torch.full_like(x0, value), x0)

    encoder = BlockMeans(moments=1, met=met)
    assert refused(
        DataError, lambda: encode(f"{tmp_path}/images", encoder, f"{tmp_path}/out", False)
    ) == (
        f"{tmp_path}/images/train-0.tar: example 'example-35' has latents up to {shown}, for which "
        f"float16 has no room; {encoder.fingerprint} is no codec for these images, or diverged: "
        "choose another"
    )


@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 0.7, 1.3, 3.3, -7.7])
def test_a_channel_that_never_changes_is_refused(tmp_path: Path, value: float):
    tiny_dataset.write(f"{tmp_path}/images", numbered([40]))
    encoder = BlockMeans(moments=1, met=lambda x0: torch.full_like(x0, value))
    assert refused(
        DataError, lambda: encode(f"{tmp_path}/images", encoder, f"{tmp_path}/out", False)
    ) == (
        "channel 0 of the latents is the same in all images, and cannot be scaled to unit "
        "variance; choose another codec"
    )
    assert not Path(tmp_path, "out", MANIFEST).exists()


def test_an_image_that_cannot_be_decoded_ends_it(tmp_path: Path):
    bad = {"png": png(np.zeros((8, 8), np.uint8)), "cls": b"0"}
    tiny_dataset.write(f"{tmp_path}/images", [[tiny_dataset.example(1), bad]])
    assert refused(DataError, lambda: encoded(f"{tmp_path}/images", f"{tmp_path}/out")) == (
        f"{tmp_path}/images/train-0.tar: example 'example-1' has shape (1, 8, 8) of uint8, the "
        "manifest says (1, 4, 4) of uint8"
    )


def test_what_the_encoder_refuses_is_what_is_said(source: str, tmp_path: Path):
    def met(x0: Tensor) -> Tensor:
        raise UsageError("codec: for images of 1 channel, these have 3")

    encoder = replace(COLOUR, met=met)
    line = refused(UsageError, lambda: encode(source, encoder, str(tmp_path), mirrored=False))
    assert line == "codec: for images of 1 channel, these have 3"


# What is said of it


def test_stats_say_what_latents_there_are(source: str, tmp_path: Path):
    found = encode(source, COLOUR, str(tmp_path), mirrored=True)
    assert found.latents is not None
    lines = [line.strip() for line in stats(found).splitlines()]
    for line in (
        "images       8x8 pixels, colour",
        "latents        3x4x4, means and log-variances",
        "mirror images  encoded as well",
        "mean           " + " ".join(f"{value:.4f}" for value in found.latents.mean),
        "std            " + " ".join(f"{value:.4f}" for value in found.latents.std),
        f"codec          {COLOUR.fingerprint}",
        f"encoded from   {source}, fingerprint {found.latents.images}",
    ):
        assert line in lines
    plain = replace(found, latents=replace(found.latents, moments=1, mirrored=False))
    assert "mirror images  none" in stats(plain)
    assert "latents        3x4x4, means\n" in stats(plain)
    assert "latents" not in stats(replace(found, latents=None))


@pytest.fixture
def verified(url: str, source: str, tmp_path: Path) -> Manifest:
    publish_codec(url, COLOUR.fingerprint, tmp_path / "scratch")
    found = encode(source, COLOUR, url, mirrored=True)
    assert verify(url, found) == []
    assert unlisted(url, found) == []
    return found


@pytest.mark.parametrize(
    ("content", "what"), [(None, "lacks codec.json"), (b"other", "codec.json")]
)
def test_a_codec_that_is_damaged_or_gone_is_told(
    url: str, verified: Manifest, content: bytes | None, what: str
):
    codec = Directory(url) / COLOUR.fingerprint
    if content is None:
        codec.remove("codec.json")
    else:
        codec.write("codec.json", content)
    (line,) = verify(url, verified)
    assert line.startswith(f"{url}/{COLOUR.fingerprint}, the codec of its latents, ")
    assert what in line


def test_a_damaged_shard_of_latents_is_told(url: str, verified: Manifest):
    shard = verified.splits["val"][0]
    content = bytearray(Directory(url).read(shard.name) or b"")
    content[1000] ^= 1
    Directory(url).write(shard.name, bytes(content))
    assert [line.partition(" has ")[2].split()[0] for line in verify(url, verified)] == [
        "crc32",
        "sha256",
    ]
