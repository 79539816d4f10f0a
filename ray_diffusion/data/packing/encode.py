"""From a dataset of images to one of their latents: a task for each shard, the manifest last."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import PIL

from ray_diffusion.data.builtin import resolve
from ray_diffusion.data.manifest import Latents, Manifest, read_manifest
from ray_diffusion.data.packing import latent_shard
from ray_diffusion.data.packing.embedded import SCHEME, embedded
from ray_diffusion.data.packing.latent_shard import Encoded, Encoder, EncodeTask, encode_shard
from ray_diffusion.data.packing.latent_sums import Sums
from ray_diffusion.data.packing.output import notes_of, refuse_lost, sizes, tidy
from ray_diffusion.data.packing.request import earlier
from ray_diffusion.data.packing.stages import Progress, Runner, results, silent
from ray_diffusion.errors import DataError, UsageError
from ray_diffusion.storage import Directory, absolute

VERSION = 1  # raise it when the same request comes to write other bytes
CACHE_BYTES = 10 * 2**30


def encode(
    source_url: str,
    encoder: Encoder,
    out: str,
    mirrored: bool,
    run: Runner = map,
    progress: Progress = silent,
    overwrite: bool = False,
    cache_bytes: int = CACHE_BYTES,
    image_size: int | None = None,
) -> Manifest:
    """Make a dataset of the latents of another one's images.

    Its examples are those of the source, in the same shards and in the same order, so that a run
    reads the latents of the very images that it would read there. The same request writes the
    same bytes, whoever runs its tasks and however often it was killed and typed again: what was
    finished is not done twice.

    Args:
        source_url: A dataset of images: a path, a URL, or ``builtin:NAME``.
        encoder: What encodes. It seals its codec in the folder of ``out`` that its fingerprint
            names.
        out: Where the latents go, a path or URL.
        mirrored: Whether to encode the mirror image of each image as well.
        run: Does the tasks.
        progress: Is told how far it is.
        overwrite: Whether a dataset that is there is replaced, at the very end.
        cache_bytes: Disk that downloaded shards may take.
        image_size: Side at which a built-in source is packed, pixels; None: its own.

    Returns:
        The manifest, in place last of all: an interrupted encoder leaves no dataset, or the one
        that was there.

    Raises:
        UsageError: If the codec does not fit the source, that holds latents already, or another
            dataset is at ``out``.
        DataError: If the source is damaged, or its latents cannot be used: float16 has no room
            for them, or a channel never changes.
        StorageError: If the source cannot be read, or ``out`` not be written.
    """
    directory = Directory(out)
    url, images = source_of(source_url, image_size, directory)
    _refuse_uneven(images, encoder)
    request = _request(url, images, encoder.fingerprint, mirrored)
    there = None if overwrite else earlier(directory, request)
    encoder.publish()  # also where all else is there, and the codec was lost
    if there is not None:
        return there
    tasks = _tasks(url, images, encoder, mirrored, cache_bytes, directory.url)
    notes = directory / notes_of(request)
    restore = partial(latent_shard.restored, sizes=sizes(directory))
    encoded = list(results("encoded", encode_shard, tasks, notes, restore, run, progress))
    refuse_lost(directory, [one.shard for one in encoded])
    manifest = _manifest(images, tasks, encoded, request)
    manifest.write(directory)
    tidy(directory, manifest)
    return manifest


def earlier_latents(
    directory: Directory,
    source_url: str,
    codec: str,
    mirrored: bool,
    image_size: int | None = None,
) -> Manifest | None:
    """The latents in a directory, if ``encode`` has made them of this very request.

    Args:
        directory: Where to look.
        source_url: As for ``encode``, like the others.
        codec: The codec's fingerprint.
        mirrored: Whether with mirror images.
        image_size: Side of a built-in source.

    Returns:
        Their manifest; None if there is no dataset.

    Raises:
        UsageError: If there is another one, or the source holds latents itself.
        StorageError: If something cannot be read.
    """
    url, images = source_of(source_url, image_size, directory)
    return earlier(directory, _request(url, images, codec, mirrored))


def _tasks(
    url: str, images: Manifest, encoder: Encoder, mirrored: bool, cache_bytes: int, out: str
) -> list[EncodeTask]:
    listless = replace(images, splits={})  # or each task would carry all shards' names
    return [
        EncodeTask(split, number, shard, url, listless, encoder, mirrored, cache_bytes, out)
        for split, shards in images.splits.items()
        for number, shard in enumerate(shards)
    ]


def source_of(url: str, image_size: int | None, out: Directory) -> tuple[str, Manifest]:
    """A dataset of images that shall be encoded.

    Args:
        url: A path, a URL, or ``builtin:NAME``.
        image_size: Side of a built-in one, pixels; None: its own.
        out: Where its latents go.

    Returns:
        What names it on every machine, and its manifest.

    Raises:
        UsageError: If it is of another size, holds latents itself, or is at ``out``.
        DataError: If it is no dataset.
        StorageError: If it cannot be read.
    """
    if url.startswith(SCHEME):
        image_size = image_size or embedded(url, None).image_size
    else:
        url = absolute(url)
    place = resolve(url, image_size or 0)
    if out.url == Directory(place).url:
        raise UsageError(f"out: {out.url} is the source itself; choose another")
    images = read_manifest(place)
    if images.latents is not None:
        raise UsageError(
            f"source: {place} holds latents already, encoded by {images.latents.codec}; encode "
            f"the images that they were made of, {images.latents.images_url}"
        )
    if image_size not in (None, images.image_size):
        raise UsageError(
            f"image_size: {image_size}, but {place} holds images of {images.image_size} pixels; "
            "leave it out"
        )
    return url, images


def _refuse_uneven(images: Manifest, encoder: Encoder) -> None:
    if images.image_size % encoder.factor:
        raise UsageError(
            f"codec: {encoder.fingerprint} makes one latent of {encoder.factor}x{encoder.factor} "
            f"pixels, which images of {images.image_size} pixels cannot be cut into; pack them at "
            "another image_size, or choose another codec"
        )


def _request(url: str, images: Manifest, codec: str, mirrored: bool) -> dict[str, Any]:
    """All that the bytes of the latents depend on; the manifest holds it as ``packer``."""
    return {
        "version": VERSION,
        "pillow": PIL.__version__,
        "source": url,
        "images": images.fingerprint,
        "codec": codec,
        "mirrored": mirrored,
    }


def _manifest(
    images: Manifest,
    tasks: Sequence[EncodeTask],
    encoded: Sequence[Encoded],
    request: dict[str, Any],
) -> Manifest:
    encoder, pairs = tasks[0].encoder, list(zip(tasks, encoded, strict=True))
    train = (one.sums for task, one in pairs if task.split == "train")
    sums = sum(train, Sums.none(encoder.channels))
    if not all(sums.std):
        raise DataError(
            f"channel {sums.std.index(0)} of the latents is the same in all images, and cannot be "
            "scaled to unit variance; choose another codec"
        )
    latents = Latents(
        codec=encoder.fingerprint,
        channels=encoder.channels,
        size=images.image_size // encoder.factor,
        moments=encoder.moments,
        mirrored=tasks[0].mirrored,
        mean=sums.mean,
        std=sums.std,
        images_url=request["source"],
        images=images.fingerprint,
    )
    splits = {
        split: tuple(one.shard for task, one in pairs if task.split == split)
        for split in images.splits
    }
    return replace(images, splits=splits, packer=request, latents=latents)
