"""Reading through a storage that fails: the same batches to the bit, or one line."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import s3fs
import tiny_dataset
from chaos_proxy import ChaosProxy, Faults

from ray_diffusion.data import cache as cache_module
from ray_diffusion.data import manifest
from ray_diffusion.data.locality import Locality
from ray_diffusion.data.reader import Dataset
from ray_diffusion.data.stream import Stream, batches
from ray_diffusion.data.training_set import TrainingSet
from ray_diffusion.errors import EnvironmentFailure, StorageError
from ray_diffusion.storage import Directory, options

pytest_plugins = ["object_store"]

# botocore calls what newer Pythons deprecate.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SHARDS, PER_SHARD, SIDE = 20, 12, 32
N = SHARDS * PER_SHARD
BATCH = 40
TWO_EPOCHS = 2 * N // BATCH  # batches
Seen = list[tuple[int, bytes, int]]  # position, pixels and label of each example

CHAOS = {
    "resets and refusals": Faults(latency_s=0.02, reset=0.3, unavailable=0.2),
    "truncated": Faults(truncated=0.3, shortened=0.2),
    "flipped": Faults(flipped=0.2),
    "all at once": Faults(
        latency_s=0.02,
        bytes_per_s=4e6,
        reset=0.1,
        truncated=0.1,
        shortened=0.1,
        flipped=0.1,
        unavailable=0.1,
    ),
}


@lru_cache
def noise() -> list[list[tiny_dataset.Files]]:
    """Shards in which no byte is like another."""
    images = np.random.default_rng(0).integers(0, 256, (N, SIDE, SIDE), np.uint8)
    examples = [
        {"png": tiny_dataset.png(image), "cls": str(i % 3).encode()}
        for i, image in enumerate(images)
    ]
    return [examples[start : start + PER_SHARD] for start in range(0, N, PER_SHARD)]


@pytest.fixture
def url(bucket: str) -> str:
    """A dataset in a bucket."""
    tiny_dataset.write(f"{bucket}/noise", noise(), image_size=SIDE)
    return f"{bucket}/noise"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Seen]:
    """Two epochs of the same dataset on this machine."""
    path = str(tmp_path_factory.mktemp("noise"))
    tiny_dataset.write(path, noise(), image_size=SIDE)
    return list(read(opened(path)))


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the client's tries and checksums all that goes wrong comes through to the cache."""
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    monkeypatch.setattr(cache_module, "TRIES", 30)  # no faults in a row are too many


def opened(url: str, shards_cached: int = SHARDS + 1) -> TrainingSet:
    """The dataset behind a cache that holds so many shards, in an order that needs eight."""
    dataset = Dataset(url, "train", SIDE, 1 << 30)
    dataset.cache_bytes = shards_cached * max(shard.bytes for shard in dataset.shards)
    return TrainingSet((dataset,), (1.0,), (Locality(2, 2 * PER_SHARD),))


def read(data: TrainingSet, steps: int = TWO_EPOCHS, workers: int = 0) -> Iterator[Seen]:
    """What a stream gives, batch by batch."""
    stream = batches(Stream(data, seed=3, consumed=0, batch=BATCH, mirror=True), workers)
    for batch in islice(stream, steps):
        images = [image.numpy().tobytes() for image in batch.images]
        yield list(zip(batch.positions.tolist(), images, batch.labels.tolist(), strict=True))
    stream.close()


def bytes_of(cache: Path) -> int:
    """Bytes on the disk, those of unfinished downloads included."""
    found = {}
    for path in (cache / "shards").iterdir():
        with suppress(FileNotFoundError):  # evicted, or whole by now
            found[path.stem] = path.stat().st_size  # a listing may show a file by both its names
    return sum(found.values())


def survived(url: str, proxy: ChaosProxy, cache: Path, faults: Faults) -> list[Seen]:
    """Two epochs through faults and a cache that is too small for one."""
    data = opened(url, shards_cached=12)
    proxy.faults = faults
    seen = []
    for batch in read(data):
        seen.append(batch)
        assert bytes_of(cache) <= data.cache_bytes
    assert bytes_of(cache) <= data.cache_bytes
    assert sum(proxy.met.values()) - proxy.met["none"] > 5
    return seen


def test_a_client_as_users_have_it_gets_through_resets_and_refusals(
    url: str,
    undisturbed: list[Seen],
    proxy: ChaosProxy,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.delenv("AWS_MAX_ATTEMPTS")
    monkeypatch.setattr(cache_module, "TRIES", 30)  # no faults in a row are too many
    faults = Faults(latency_s=0.02, reset=0.3, unavailable=0.2)
    assert survived(url, proxy, cache, faults) == undisturbed


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("faults", CHAOS.values(), ids=CHAOS)
def test_a_failing_storage_changes_no_bit_and_no_order_and_shortens_no_epoch(
    url: str, undisturbed: list[Seen], proxy: ChaosProxy, cache: Path, faults: Faults
):
    seen = survived(url, proxy, cache, faults)
    assert seen == undisturbed
    assert sorted(position for batch in seen for position, _, _ in batch) == list(range(2 * N))


def complaint(data: TrainingSet) -> str:
    with pytest.raises(EnvironmentFailure) as error:
        list(read(data))
    assert "\n" not in str(error.value)
    return str(error.value)


PERMANENT = {
    "truncated": r"cannot read (\S+): Response payload is not completed: .* of 40960 bytes\).*",
    "flipped": r"shard (\S+) is damaged: 40960 bytes, CRC .*; pack the dataset again",
    "unavailable": r"cannot read (\S+): Service Unavailable",
}


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(("fault", "line"), PERMANENT.items(), ids=PERMANENT)
def test_a_shard_that_never_comes_whole_is_one_line(
    url: str, proxy: ChaosProxy, fault: str, line: str
):
    data = opened(url)
    proxy.faults = Faults(**{fault: 1.0}, only="GET /bucket/noise/train-7.tar ")
    found = re.fullmatch(line, complaint(data))
    assert found is not None
    assert found[1] == f"{url}/train-7.tar"
    assert proxy.met[fault] == cache_module.TRIES


@pytest.mark.parametrize("table_from", [1, 1000], ids=["shards in a table", "in the manifest"])
def test_a_second_run_needs_no_storage_where_the_cache_holds_all(
    url: str,
    undisturbed: list[Seen],
    proxy: ChaosProxy,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    table_from: int,
):
    monkeypatch.setattr(manifest, "TABLE_FROM", table_from)
    manifest.read_manifest(url).write(Directory(url))
    assert list(read(opened(url))) == undisturbed
    assert capsys.readouterr().err == ""
    proxy.stop()
    assert list(read(opened(url))) == undisturbed
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (2 if table_from == 1 else 1)
    assert lines[0].startswith(f"warning: cannot read {url}/manifest.json: Could not connect")
    assert lines[0].endswith("; going on with manifest.json as it was when last read")


def test_the_manifest_of_one_dataset_never_stands_for_another(url: str, proxy: ChaosProxy):
    opened(url)
    proxy.stop()
    with pytest.raises(StorageError, match=f"cannot read {url}-2/manifest.json: Could not connect"):
        opened(f"{url}-2")


def test_the_manifest_that_counts_is_the_one_read_last(url: str, proxy: ChaosProxy):
    first = manifest.read_manifest(url)
    replace(first, rejected={"blurred": 1}).write(Directory(url))
    second = manifest.read_manifest(url)
    proxy.stop()
    assert first != second == manifest.read_manifest(url)


def test_a_run_that_lacks_a_shard_says_that_the_storage_is_gone(url: str, proxy: ChaosProxy):
    list(read(opened(url), steps=1))
    for cached in Path(os.environ["XDG_CACHE_HOME"], "ray_diffusion", "shards").glob("*.tar"):
        cached.unlink()
    proxy.stop()
    assert complaint(opened(url)).startswith(f"cannot read {url}/train-")


# Seldom a process is aborted while it ends; torch says so where nobody can catch it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("restored_options")
def test_processes_that_help_use_the_storage_options_too(
    url: str, undisturbed: list[Seen], monkeypatch: pytest.MonkeyPatch
):
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    options.use([f"s3.endpoint_url={endpoint}"])
    assert list(read(opened(url), workers=2)) == undisturbed
