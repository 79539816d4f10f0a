"""``hf:NAME`` sources: image datasets of Hugging Face's hub, or saved by its library."""

from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from typing import Any

from ray_diffusion.data.packing.columns import Columns, described, named
from ray_diffusion.data.packing.folders import load_file
from ray_diffusion.data.packing.records import SPLIT_WORDS, Found, key_of, source_of
from ray_diffusion.data.packing.source import Record, Source
from ray_diffusion.errors import StorageError, UsageError
from ray_diffusion.storage import absolute, explained

SCHEME = "hf:"


def hub(location: str, columns: Columns) -> Source:
    """The images of a Hugging Face dataset, all its splits.

    Args:
        location: ``hf:NAME`` or ``hf:NAME:CONFIG`` on the hub; ``hf:/PATH``, ``hf:./PATH`` or
            ``hf:~/PATH`` on this machine, as ``save_to_disk`` left it.
        columns: Names of its columns. Image and label: those whose feature says so. A key or
            split only where asked for: the dataset has splits, and its ids may be anything.

    Returns:
        The source.

    Raises:
        UsageError: If the library is not installed, or the dataset lacks a column.
        DataError: If an image cannot be used.
        StorageError: If the dataset cannot be read.
    """
    splits = _opened(location)
    features = next(iter(splits.values())).features
    kinds = {type(feature).__name__: name for name, feature in reversed(features.items())}
    asked = columns._replace(
        image=columns.image or kinds.get("Image"), label=columns.label or kinds.get("ClassLabel")
    )
    image, about = named(asked, list(features), location)
    about = about._replace(key=columns.key, split=columns.split)
    if type(features[image]).__name__ != "Image":
        raise UsageError(f"image_column: column '{image}' of {location} does not hold images")
    classes = getattr(features[about.label], "names", None) if about.label else None
    found = _found(location, splits, about, classes)
    return source_of(location, found, partial(load_row, location, image), classes)


def load_row(location: str, column: str, record: Record) -> bytes:
    """The content of an image in a Hugging Face dataset.

    Args:
        location: As ``hub`` takes it.
        column: Name of the column with the images.
        record: Has the split and the row's number in ``at``.

    Returns:
        The encoded image.

    Raises:
        StorageError: If it cannot be read.
    """
    split, number = record.at
    images = _images(location, column, split, record.stamp)
    with explained("read", f"{location}: row {number}"):
        image = images[number][column]
    if image is None:
        raise StorageError(f"cannot read {location}: row {number} of '{split}' has no image")
    content: bytes | None = image["bytes"]
    return load_file("/", Record(record.key, image["path"])) if content is None else content


@lru_cache(maxsize=8)
def _images(location: str, column: str, split: str, stamp: str) -> Any:
    """One split's images, not decoded; opened once per process and state of the dataset."""
    import datasets

    images = _opened(location)[split].select_columns([column])
    return images.cast_column(column, datasets.Image(decode=False))


def _opened(location: str) -> dict[str, Any]:
    """The splits of a dataset; ``""`` if it is not divided."""
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            f"{location} needs Hugging Face's datasets: pip install 'ray-diffusion[hf]'"
        ) from error
    datasets.disable_progress_bars()
    name = location.removeprefix(SCHEME)
    with explained("read", location):
        if name.startswith(("/", ".", "~")):
            opened = datasets.load_from_disk(absolute(name))
        else:
            opened = datasets.load_dataset(*name.split(":", 1))
    return dict(opened) if isinstance(opened, dict) else {"": opened}


def _found(
    location: str, splits: Mapping[str, Any], about: Columns, classes: list[str] | None
) -> Iterator[Found]:
    wanted = [name for name in about if name is not None]
    for split, dataset in splits.items():
        within = f" of '{split}'" if split else ""
        rows = dataset.select_columns(wanted) if wanted else ({} for _ in range(len(dataset)))
        for number, row in enumerate(rows):
            if classes is not None:  # unlabelled images have -1 or null
                label = row[about.label]
                row = row | {about.label: None if label in (None, -1) else classes[label]}
            image = Found(
                where=f"{location}: row {number}{within}",
                key=key_of(f"{split or 'image'}-{number:08d}"),
                at=(split, number),
                split=SPLIT_WORDS.get(split),
                stamp=dataset._fingerprint,
            )
            yield described(row, about, image)
