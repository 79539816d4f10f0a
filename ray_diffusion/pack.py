"""Pack images into a dataset: webdataset shards and a manifest, in any storage.

The source is builtin:digits|shapes|photos, a folder (of folders, one for each class), a table
(.csv .tsv .jsonl .parquet), webdataset .tar files or hf:NAME, on this machine or at any fsspec URL.
A packer that was killed goes on when the same command is typed again.

Three more commands look at shards that are packed; each has its own --help:

  python -m ray_diffusion.pack index URL     make a dataset of foreign webdataset shards, in place
  python -m ray_diffusion.pack verify URL    read every shard again and compare it to the manifest
  python -m ray_diffusion.pack stats URL     print what a dataset holds
"""

import sys
from collections.abc import Callable
from typing import Any

from pydantic import Field

from ray_diffusion import config, errors
from ray_diffusion.data.packing.recipe import Recipe

FEW = 5_000  # images that are not worth starting Ray for


class Place(config.Values):
    """What to pack, and where to."""

    source: str = Field(default="builtin:digits", description="Where the images come from.")
    out: str = Field(description="The dataset's directory: a path or fsspec URL.")
    num_examples: config.Int | None = Field(
        default=None, ge=1, description="Pack so many of the images; null: all."
    )
    image_column: str | None = Field(
        default=None, description="Of a table: the image, its path or URL; null: by common names."
    )
    label_column: str | None = Field(default=None, description="Likewise: its class.")
    caption_column: str | None = Field(default=None, description="Likewise: a text about it.")
    key_column: str | None = Field(default=None, description="Likewise: its name, without dots.")
    split_column: str | None = Field(default=None, description="Likewise: train, val or test.")
    group_column: str | None = Field(
        default=None, description="Likewise: images of one group share a split."
    )


class PackRequest(config.Reach, Recipe, Place):
    """What to pack, where to, and how."""

    workers: config.Int | None = Field(
        default=None,
        ge=1,
        description="Tasks under way at once: 1 in this process, more on Ray; null: 1 for up to "
        f"{FEW:,} images, else as many as the cluster has CPUs.",
    )
    overwrite: config.Bool = Field(default=False, description="Replace a dataset that is there.")
    dry_run: config.Bool = Field(
        default=False, description="Count, look at a sample of the images, and write nothing."
    )


class Shards(config.Values):
    """Which shards are meant."""

    url: str = Field(description="The directory of the shards: a path or fsspec URL.")


class StatsRequest(config.Reach, Shards):
    """Which dataset is described."""


class VerifyRequest(StatsRequest):
    """Which dataset is read again."""

    workers: config.Int = Field(
        default=1, ge=1, description="Shards under way at once: 1 in this process, more on Ray."
    )


class IndexRequest(VerifyRequest):
    """Which shards become a dataset."""

    val_fraction: config.Float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description="Share of the shards kept for validation, if no shard's name says val.",
    )
    overwrite: config.Bool = Field(default=False, description="Replace a manifest that is there.")


def main(argv: list[str]) -> None:
    """Pack a source, or look at shards that are packed.

    Args:
        argv: ``source=LOCATION out=URL [key=value ...]``, or ``index|verify|stats URL ...``.
    """
    command = COMMANDS.get(argv[0]) if argv else None
    if command is None:
        _act(_pack, config.request(argv, PackRequest, verb="pack", doc=__doc__))
    else:
        model, act = command
        verb = f"pack {argv[0]}"
        _act(act, config.request(argv[1:], model, verb=verb, doc=act.__doc__, positional=["url"]))


def _act(act: Callable[[Any], None], request: config.Reach) -> None:
    from ray_diffusion.storage import options

    options.use(request.storage_options)
    act(request)


def _pack(request: PackRequest) -> None:
    from ray_diffusion.cluster.stages import progress, runner
    from ray_diffusion.data.packing.choose import check
    from ray_diffusion.data.packing.inputs import Columns, open_source
    from ray_diffusion.data.packing.output import REPORT
    from ray_diffusion.data.packing.pack import pack
    from ray_diffusion.data.packing.preview import preview
    from ray_diffusion.data.packing.report import next_commands
    from ray_diffusion.data.packing.request import earlier, request_of
    from ray_diffusion.data.packing.stats import summary
    from ray_diffusion.storage import Directory

    recipe = Recipe(**request.model_dump(include=set(Recipe.model_fields)))
    check(recipe)
    columns = Columns(*(getattr(request, f"{role}_column") for role in Columns._fields))
    source = open_source(request.source, columns, request.num_examples)
    fractions = sorted({"val_fraction", "test_fraction"} & request.model_fields_set)
    if fractions and all(record.split is not None for record in source.records):
        errors.warn(f"{source.name} has splits of its own, whatever {', '.join(fractions)} may be")
    if request.dry_run:
        print(preview(source, recipe))
        return
    directory = Directory(request.out)
    manifest = None if request.overwrite else earlier(directory, request_of(source, recipe))
    if manifest is None:
        directory.check_writable()
        few = len(source.records) <= FEW
        workers = request.workers or (1 if few else None)
        with runner(workers, request) as run, progress("images") as tell:
            manifest = pack(source, recipe, request.out, run, tell, request.overwrite)
    else:
        print("packed already, by this very request")
    print(summary(manifest))
    print(f"report: {directory.url}/{REPORT}")
    print(f"{directory.url} is a dataset, fingerprint {manifest.fingerprint}")
    print("next:", "\n      ".join(next_commands(manifest, directory.url)))


def _index(request: IndexRequest) -> None:
    """Make a dataset of foreign webdataset shards where they lie: read them, add a manifest."""
    from ray_diffusion.cluster.stages import progress, runner
    from ray_diffusion.data.packing.foreign import index
    from ray_diffusion.data.packing.report import next_commands
    from ray_diffusion.data.packing.stats import summary
    from ray_diffusion.storage import absolute

    url = absolute(request.url)
    with runner(request.workers, request) as run, progress("shards") as tell:
        manifest = index(url, request.val_fraction, run, tell, request.overwrite)
    print(summary(manifest))
    print(f"{url} is a dataset, fingerprint {manifest.fingerprint}")
    print("next:", "\n      ".join(next_commands(manifest, url)))


def _verify(request: VerifyRequest) -> None:
    """Read every shard again and compare it with the manifest; exit code 3 if any differs."""
    from ray_diffusion.cluster.stages import progress, runner
    from ray_diffusion.data.manifest import read_manifest
    from ray_diffusion.data.packing.verify import unlisted, verify
    from ray_diffusion.storage import absolute

    url = absolute(request.url)
    manifest = read_manifest(url)
    with runner(request.workers, request) as run, progress("shards") as tell:
        problems = verify(url, manifest, run, tell)
    for name in unlisted(url, manifest):
        errors.warn(f"{url}/{name} is not in the manifest")
    if problems:
        raise errors.DataError("\n".join(problems))
    shards = sum(map(len, manifest.splits.values()))
    print(f"{url} is whole: {shards} shards, fingerprint {manifest.fingerprint}")


def _stats(request: StatsRequest) -> None:
    """Print what a dataset holds."""
    from ray_diffusion.data.manifest import read_manifest
    from ray_diffusion.data.packing.stats import stats

    print(stats(read_manifest(request.url)))


COMMANDS: dict[str, tuple[type[Any], Callable[[Any], None]]] = {
    "index": (IndexRequest, _index),
    "verify": (VerifyRequest, _verify),
    "stats": (StatsRequest, _stats),
}


if __name__ == "__main__":
    sys.exit(errors.run(main))
