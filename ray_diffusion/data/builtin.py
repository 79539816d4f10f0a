"""``builtin:NAME`` datasets: packed into the cache of each machine on first use."""

import fcntl
from difflib import get_close_matches

from ray_diffusion.data.manifest import VERSION, read_manifest
from ray_diffusion.data.pack import pack
from ray_diffusion.data.sources import SOURCES
from ray_diffusion.errors import DataError, UsageError
from ray_diffusion.storage import absolute, make_cache_dir

SCHEME = "builtin:"


def source_name(url: str) -> str:
    """The key of ``SOURCES`` that a ``builtin:NAME`` stands for.

    Raises:
        UsageError: If there is no such source.
    """
    name = url.removeprefix(SCHEME)
    if name not in SOURCES:
        near = get_close_matches(name, SOURCES)
        hint = f"did you mean '{SCHEME}{near[0]}'?" if near else f"there is {', '.join(SOURCES)}"
        raise UsageError(f"data.dataset_url: no built-in dataset '{name}'; {hint}")
    return name


def resolve(url: str, image_size: int) -> str:
    """Where a dataset really is; packs a built-in one that is not there yet.

    Args:
        url: A path, a URL, or ``builtin:NAME``.
        image_size: Side at which a built-in source is packed, pixels.

    Returns:
        A path or URL of a dataset.

    Raises:
        UsageError: If there is no built-in dataset of that name.
        StorageError: If the cache cannot be written.
    """
    if not url.startswith(SCHEME):
        return absolute(url)
    name = source_name(url)
    directory = make_cache_dir("datasets") / f"{name}-{image_size}-v{VERSION}"
    with directory.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the workers of a node start together
        try:
            read_manifest(str(directory))
        except DataError:
            pack(name, str(directory), image_size)
    return str(directory)
