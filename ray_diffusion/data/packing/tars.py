"""Webdataset tar shards, ours or foreign ones: indexed once, then read example by example."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from ray_diffusion.data.decode import CAPTION, LABEL
from ray_diffusion.data.manifest import read_manifest
from ray_diffusion.data.packing.files import at_hand, class_number, members_of
from ray_diffusion.data.packing.records import IMAGES, SPLIT_WORDS, Found, key_of, source_of
from ray_diffusion.data.packing.source import Record, Source
from ray_diffusion.errors import DataError, StorageError, UsageError
from ray_diffusion.storage import MANIFEST, Directory, absolute, digest, explained, is_local


def shards(location: str) -> Source:
    """The examples of tar shards.

    Args:
        location: A path or URL that ends in ``.tar``, which may hold webdataset's braces
            (``{000..009}``) and wildcards (``*``, ``?``).

    Returns:
        The source. Its classes are ``"0"`` to the highest number in a ``.cls`` file.

    Raises:
        UsageError: If the braces do not match.
        DataError: If there is no such shard, or it is damaged or compressed, or an example has no
            image or a label that is no number.
        StorageError: If the storage cannot be read.
    """
    from webdataset.shardlists import expand_urls

    try:
        patterns = expand_urls(absolute(location))
    except ValueError as error:
        raise UsageError(f"{location}: {error}") from error
    return _source(location, _by_name([url for pattern in patterns for url in _matching(pattern)]))


def folder_of_shards(location: str, names: Sequence[str]) -> Source:
    """The examples of a folder of tar shards; of a dataset of ours, those that it lists.

    Args:
        location: A path or URL.
        names: The tar files in it.

    Returns:
        The source; a dataset's classes keep their names.

    Raises:
        DataError: As ``shards`` does, or if there is a damaged manifest.
        StorageError: If the storage cannot be read.
    """
    url = absolute(location)
    if MANIFEST not in Directory(url).names():
        return _source(location, _by_name([f"{url}/{name}" for name in names]))
    manifest = read_manifest(url)
    listed = {
        f"{url}/{shard.name}": split
        for split, members in manifest.splits.items()
        for shard in members
    }
    return _source(location, listed, manifest.classes)


def load_member(record: Record) -> bytes:
    """The content of an image in a shard.

    Args:
        record: Has the URL of the shard, and offset and bytes within it, in ``at``.

    Returns:
        The encoded image.

    Raises:
        StorageError: If it cannot be read.
    """
    url, offset, size = record.at
    directory, name = _parted(url)
    content = directory.read_range(name, offset, size)
    if len(content) != size:
        raise StorageError(f"cannot read {url}: it is shorter than it was")
    return content


def _parted(url: str) -> tuple[Directory, str]:
    directory, _, name = url.rpartition("/")
    return Directory(directory or "/"), name


def _matching(pattern: str) -> list[str]:
    """URLs of the files that wildcards stand for; without wildcards the URL itself."""
    fixed = re.split(r"[*?]", pattern, maxsplit=1)[0]
    if fixed == pattern:
        return [pattern]
    root = fixed.rpartition("/")[0]
    found = [
        url
        for url in (f"{root}/{file.name}" for file in Directory(root).walk())
        if fnmatchcase(url, pattern) and url.count("/") == pattern.count("/")
    ]
    if not found:
        raise DataError(f"no file matches {pattern}")
    return found


def _by_name(urls: Sequence[str]) -> dict[str, str | None]:
    """The split of each shard that its name begins with (``val-000.tar``), if all begin so."""
    first = {url: url.rpartition("/")[2].partition("-")[0] for url in urls}
    divided = SPLIT_WORDS.keys() >= set(first.values())
    return {url: SPLIT_WORDS[word] if divided else None for url, word in first.items()}


def _source(location: str, splits: Mapping[str, str | None], classes: Sequence[str] = ()) -> Source:
    found = [each for url, split in splits.items() for each in _examples(url, split, classes)]
    if not classes:
        highest = max((int(each.label) for each in found if each.label is not None), default=-1)
        classes = [str(number) for number in range(highest + 1)]
    return source_of(location, found, load_member, classes)


def _examples(url: str, split: str | None, classes: Sequence[str]) -> Iterator[Found]:
    with at_hand(*_parted(url)) as path:
        # What has been downloaded can as well be read whole; what is here may be large.
        changed = path.stat().st_mtime_ns if is_local(url) else digest(path)["sha256"]
        stamp = f"{changed} {path.stat().st_size}"
        with explained("read", url):
            file = path.open("rb")
        with file:
            for key, fields in members_of(path, url):
                where = f"{url}: example '{key}'"
                image = next((fields[e] for e in IMAGES if e in fields), None)
                if image is None:
                    raise DataError(f"{where} has no image ({', '.join(IMAGES)})")
                label, caption = (
                    os.pread(file.fileno(), fields[e][1], fields[e][0]) if e in fields else None
                    for e in (LABEL, CAPTION)
                )
                yield Found(
                    where=where,
                    key=key_of(key),
                    at=(url, *image),
                    label=None if label is None else _class_name(label, classes, where),
                    caption=(caption or b"").decode(errors="replace").strip() or None,
                    split=split,
                    stamp=stamp,
                )


def _class_name(content: bytes, classes: Sequence[str], where: str) -> str:
    number = class_number(content, where)
    if classes and number >= len(classes):
        raise DataError(f"{where} has label {number}, the manifest says 0 to {len(classes) - 1}")
    return classes[number] if classes else str(number)
