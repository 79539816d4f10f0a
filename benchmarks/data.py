"""How fast examples come, against other ways to read the same images: ratios within one run.

Writes two datasets, photographs of 256 pixels as JPEG and of 32 as PNG, and reads them

* from a store that answers after 100 ms and sends 20 MB/s over each connection, against webdataset
  with s3fs behind its ``gopen``, and with a process for each shard behind its ``pipe:``;
* from the cache that is full then, and from a directory, against webdataset on the same files;
* in decoded batches, against webdataset's.

``--mosaic`` adds mosaicml-streaming, its shards as large. All ways read by turns, in several
rounds; what is printed are medians over the rounds::

    python benchmarks/data.py [--rounds N] [--shards N] [--aws COMMAND] [--mosaic PYTHON]
"""

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import NamedTuple

import fsspec
import numpy as np
import webdataset as wds
from link import Link, slow_store
from PIL import Image
from sklearn.datasets import load_sample_images

from ray_diffusion.data.locality import choose_locality
from ray_diffusion.data.manifest import Manifest
from ray_diffusion.data.packing.files import described
from ray_diffusion.data.reader import Dataset
from ray_diffusion.data.stream import Stream, batches
from ray_diffusion.data.training_set import TrainingSet
from ray_diffusion.storage import Directory, cache_dir

LINK = Link(seconds_per_request=0.1, bytes_per_s=20e6)
BUCKET = "bucket"
BATCH = 256
SHUFFLE = 1000  # examples; webdataset's buffer
CACHE_BYTES = 10 * 2**30
DISTINCT = 256  # images; they come again under other keys, which no reader can tell
DECODED_SHARDS = 4  # enough to measure, and decoding is slow
ONE_BY_ONE = 8  # ways that fetch one shard at a time read this part of them: their rate is the same
MOSAIC = Path(__file__).with_name("mosaic.py")
BOTO3 = "import boto3, sys; boto3.client('s3').download_fileobj(*sys.argv[1:], sys.stdout.buffer)"
CREDENTIALS = {  # the store looks at none, but no client works without
    "AWS_ACCESS_KEY_ID": "any",
    "AWS_SECRET_ACCESS_KEY": "any",
    "AWS_DEFAULT_REGION": "us-east-1",
}

Way = Callable[[], float]  # reads examples and returns how many a second


class Kind(NamedTuple):
    """A kind of images, ``per_shard`` of them in each shard."""

    name: str
    side: int
    extension: str
    format: str
    per_shard: int


KINDS = (Kind("jpeg-256", 256, "jpg", "jpeg", 256), Kind("png-32", 32, "png", "png", 1024))


def pictures(kind: Kind) -> list[bytes]:
    """Crops of two photographs, encoded."""
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    draw, encoded = np.random.default_rng(0), []
    for i in range(DISTINCT):
        photograph = photographs[i % 2]
        side = int(draw.integers(128, photograph.height))
        left, top = (int(draw.integers(length - side + 1)) for length in photograph.size)
        crop = photograph.crop((left, top, left + side, top + side))
        file = io.BytesIO()
        crop.resize((kind.side, kind.side)).save(file, kind.format, quality=95)
        encoded.append(file.getvalue())
    return encoded


def write_dataset(path: Path, kind: Kind, shards: int) -> None:
    """Write a dataset; some of its shards are the ``val`` split as well, to be decoded."""
    path.mkdir(parents=True)
    encoded, written = pictures(kind), []
    for number in range(shards):
        name = f"{number:06d}.tar"
        with wds.TarWriter(str(path / name), mtime=0) as tar:
            for i in range(number * kind.per_shard, (number + 1) * kind.per_shard):
                image = encoded[i % DISTINCT]
                tar.write({"__key__": f"{i:08d}", kind.extension: image, "cls": b"%d" % (i % 10)})
        written.append(described(path / name, name, kind.per_shard))
    splits = {"train": tuple(written), "val": tuple(written[:DECODED_SHARDS])}
    moments = [0.5] * 3
    manifest = Manifest(kind.side, 3, tuple("0123456789"), splits, {}, moments, moments, {}, {})
    manifest.write(Directory(str(path)))
    kilobytes = sum(shard.bytes for shard in written) / 1e3
    print(
        f"{kind.name}: {shards} shards of {kind.per_shard} examples and "
        f"{kilobytes / shards / 1e3:.1f} MB, {kilobytes / shards / kind.per_shard:.1f} kB each"
    )


def stream(url: str, kind: Kind, split: str = "train") -> Stream:
    dataset = Dataset(url, split, kind.side, CACHE_BYTES)
    locality = choose_locality(dataset.shards, BATCH, CACHE_BYTES)
    return Stream(TrainingSet((dataset,), (1.0,), (locality,)), 0, 0, BATCH)


def rate(found: Iterable[object], examples: int, per_item: int = 1) -> float:
    """Examples per second while so many are read."""
    wanted = examples // per_item
    started = time.perf_counter()
    read = sum(1 for _ in islice(found, wanted))
    seconds = time.perf_counter() - started
    assert read == wanted, f"{read} of {wanted} came"
    return examples / seconds


def ours(source: Stream, examples: int) -> float:
    with closing(source.examples()) as found:
        return rate(found, examples)


def ours_cold(source: Stream, examples: int) -> float:
    kept = os.environ["XDG_CACHE_HOME"]
    with tempfile.TemporaryDirectory() as empty:
        os.environ["XDG_CACHE_HOME"] = empty
        try:
            return ours(source, examples)
        finally:
            os.environ["XDG_CACHE_HOME"] = kept


def ours_decoded(source: Stream, examples: int) -> float:
    with closing(batches(source)) as found:
        return rate(found, examples, BATCH)


def theirs(urls: list[str], examples: int, shuffle: int = 0) -> float:
    found = wds.WebDataset(urls, shardshuffle=False)
    return rate(found.shuffle(shuffle) if shuffle else found, examples)


def theirs_decoded(urls: list[str], extension: str, examples: int) -> float:
    found = wds.WebDataset(urls, shardshuffle=False).decode("rgb8").to_tuple(extension, "cls")
    return rate(found.batched(BATCH), examples, BATCH)


def mosaic(python: str, *arguments: object) -> float:
    """Examples per second as ``mosaic.py`` says, in a process of its own each time."""
    command = [python, str(MOSAIC), *map(str, arguments)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def race(title: str, ways: dict[str, Way], rounds: int) -> None:
    """Let ways read by turns, and print each one's rate and what the first one's is of it."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):  # interleaved, so that a change of the machine's speed hits all
        for name, way in ways.items():
            found[name].append(way())
    print(f"\n{title:<36} examples/s   the first is times as fast (least, most)")
    first = next(iter(found.values()))
    for name, rates in found.items():
        ratios = [one / other for one, other in zip(first, rates, strict=True)]
        spread = f"{median(ratios):8.2f} ({min(ratios):.2f}, {max(ratios):.2f})"
        print(f"  {name:<34} {median(rates):10,.0f} {spread}", flush=True)


def over_the_link(kind: Kind, shards: list[str], endpoint: str, options: argparse.Namespace) -> Way:
    """Read with nothing on this machine; returns how to read with all of it in the cache."""
    url, few = f"s3://{BUCKET}/{kind.name}", shards[: max(1, len(shards) // ONE_BY_ONE)]
    sources = {
        "webdataset, s3fs": f"{url}/{{}}",
        "webdataset, curl per shard": f"pipe:curl -s {endpoint}/{BUCKET}/{kind.name}/{{}}",
        "webdataset, boto3 per shard": f'pipe:{sys.executable} -c "{BOTO3}" {BUCKET} '
        f"{kind.name}/{{}}",
    }
    if options.aws:
        sources["webdataset, aws s3 cp per shard"] = f"pipe:{options.aws} s3 cp {url}/{{}} -"
    source, examples = stream(url, kind), len(shards) * kind.per_shard
    ways: dict[str, Way] = {"ours": partial(ours_cold, source, examples)}
    for name, template in sources.items():
        urls = [template.format(shard) for shard in few]
        ways[name] = partial(theirs, urls, len(urls) * kind.per_shard)
    if options.mosaic:
        ways["mosaicml-streaming"] = partial(mosaic, options.mosaic, "read", f"{url}/mds")
    race(f"{kind.name}, over the link", ways, options.rounds)
    return partial(ours, source, examples)


def on_this_machine(kind: Kind, files: list[str], cached: Way, options: argparse.Namespace) -> None:
    examples, directory = len(files) * kind.per_shard, Path(files[0]).parent
    cached()  # fills the cache
    in_cache = sorted(map(str, (cache_dir() / "shards").glob("*.tar")))
    race(
        f"{kind.name}, in the cache",
        {"ours": cached, "webdataset": partial(theirs, in_cache, len(in_cache) * kind.per_shard)},
        options.rounds,
    )
    ways: dict[str, Way] = {
        "ours": partial(ours, stream(str(directory), kind), examples),
        "webdataset": partial(theirs, files, examples),
        f"webdataset, shuffle({SHUFFLE})": partial(theirs, files, examples, SHUFFLE),
    }
    if options.mosaic:
        read = partial(mosaic, options.mosaic, "read", directory / "mds")
        ways |= {"mosaicml-streaming": read, "mosaicml-streaming, py1e": partial(read, "py1e")}
    race(f"{kind.name}, in a directory", ways, options.rounds)
    few, size = files[:DECODED_SHARDS], DECODED_SHARDS * kind.per_shard
    ways = {
        "ours": partial(ours_decoded, stream(str(directory), kind, "val"), size),
        "webdataset": partial(theirs_decoded, few, kind.extension, size),
    }
    race(f"{kind.name}, in decoded batches", ways, options.rounds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shards", type=int, default=24, help="of each dataset; at least 4")
    parser.add_argument("--aws", help="AWS's command line program, also to be measured")
    parser.add_argument("--mosaic", help="a Python that has mosaicml-streaming, likewise")
    options = parser.parse_args()
    wds.gopen_schemes["s3"] = lambda url, *_, **__: fsspec.open(url, "rb").open()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ |= CREDENTIALS | {"TMPDIR": scratch}  # of other programs, which leave files
        with slow_store(Path(scratch), LINK) as endpoint:
            # The second name is mosaicml-streaming's.
            os.environ |= {"AWS_ENDPOINT_URL": endpoint, "S3_ENDPOINT_URL": endpoint}
            for kind in KINDS:
                os.environ["XDG_CACHE_HOME"] = str(Path(scratch, "cache", kind.name))
                directory = Path(scratch, BUCKET, kind.name)
                write_dataset(directory, kind, options.shards)
                if options.mosaic:
                    mosaic(options.mosaic, "write", directory)
                files = sorted(directory.glob("*.tar"))
                cached = over_the_link(kind, [path.name for path in files], endpoint, options)
                on_this_machine(kind, [str(path) for path in files], cached, options)


if __name__ == "__main__":
    main()
