"""Folders of images: a file each, its class the folder it lies in."""

import posixpath
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from ray_diffusion.data.decode import CAPTION
from ray_diffusion.data.packing.records import IMAGES, SPLIT_WORDS, Found, key_of, source_of
from ray_diffusion.data.packing.source import Record, Source
from ray_diffusion.data.packing.tars import folder_of_shards
from ray_diffusion.errors import DataError, StorageError
from ray_diffusion.storage import Directory, Stored, absolute

SHARD = "tar"
READERS = 16  # threads that read captions: each waits for the storage


def folder(location: str) -> Source:
    """The images of a folder, ``cat/1.jpg`` or ``train/cat/1.jpg`` with classes, ``1.jpg`` without.

    Hidden files, and those that are no images by their names, are not looked at. A text file
    beside an image (``1.txt``) is its caption. A folder of tar shards is one of examples.

    Args:
        location: A path or fsspec URL.

    Returns:
        The source.

    Raises:
        DataError: If there are no images, or only some of them lie in folders, or two have the
            same key.
        StorageError: If the folder cannot be listed.
    """
    url = absolute(location)
    files = [file for file in Directory(url).walk() if _visible(file.name)]
    images = [file for file in files if _extension(file.name) in IMAGES]
    if images:
        captions = _captions(url, files, images)
        return source_of(location, _found(url, images, captions), partial(load_file, url))
    shards = [file.name for file in files if _extension(file.name) == SHARD]
    if shards:
        return folder_of_shards(location, shards)
    if not files:
        raise DataError(f"{url} is empty or does not exist")
    raise DataError(
        f"{url} holds no images ({', '.join(IMAGES)}) and no shards ({SHARD})"
        if files[0].name
        else f"{url} is neither a folder nor a table nor a tar file of images"
    )


def load_file(base: str, record: Record) -> bytes:
    """The content of an image file.

    Args:
        base: What a relative path is relative to, a path or URL.
        record: Has a path or URL in ``at``.

    Returns:
        The encoded image.

    Raises:
        StorageError: If there is no such file, or it cannot be read.
    """
    path: str = record.at
    whole = path if "://" in path else posixpath.join(base, path)
    directory, _, name = whole.rpartition("/")
    content = Directory(directory or "/").read(name)
    if content is None:
        raise StorageError(f"cannot read {whole}: no such file")
    return content


def _visible(name: str) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _extension(name: str) -> str:
    return posixpath.splitext(name)[1].removeprefix(".").lower()


def _found(url: str, images: list[Stored], captions: Mapping[str, str]) -> Iterator[Found]:
    tops = {file.name.rpartition("/")[0].partition("/")[0].lower() for file in images}
    divided = tops <= SPLIT_WORDS.keys()
    for name, size, stamp in images:
        path = name.split("/")
        split = SPLIT_WORDS[path.pop(0).lower()] if divided else None
        yield Found(
            where=f"{url}/{name}",
            key=key_of(posixpath.splitext(name)[0]),
            at=name,
            label=path[0] if len(path) > 1 else None,
            caption=captions.get(name) or None,
            split=split,
            stamp=f"{stamp} {size}",
        )


def _captions(url: str, files: list[Stored], images: list[Stored]) -> dict[str, str]:
    """Texts beside images, by the name of the image."""
    texts = {file.name for file in files if _extension(file.name) == CAPTION}
    beside = {file.name: f"{posixpath.splitext(file.name)[0]}.{CAPTION}" for file in images}
    captioned = {image: text for image, text in beside.items() if text in texts}
    with ThreadPoolExecutor(READERS) as pool:
        return dict(
            zip(captioned, pool.map(partial(_caption, url), captioned.values()), strict=True)
        )


def _caption(url: str, name: str) -> str:
    content = load_file(url, Record(name, name))
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{url}/{name} is not text in UTF-8: {error.reason}") from error
