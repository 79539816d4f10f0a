"""``builtin:NAME`` datasets: packed into the cache of each machine on first use."""

import fcntl
import sys
from pathlib import Path

from ray_diffusion.data import manifest
from ray_diffusion.data.packing import request
from ray_diffusion.data.packing.embedded import SCHEME, embedded
from ray_diffusion.data.packing.pack import pack
from ray_diffusion.data.packing.recipe import Recipe
from ray_diffusion.errors import DataError
from ray_diffusion.storage import absolute, make_cache_dir

AT_ONCE = 2_000  # images that are packed before anybody wonders


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
    version = f"v{manifest.VERSION}-{request.VERSION}"
    name = f"{url.removeprefix(SCHEME)}-{image_size}-{version}"
    directory = make_cache_dir("datasets") / name
    if not _is_whole(directory):
        source = embedded(url, None)  # refuses a name that is none before a file has it
        with directory.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the workers of a node start together
            if not _is_whole(directory):
                if len(source.records) > AT_ONCE:
                    told = f"packing the {len(source.records):,} images of {url}, this once"
                    print(told, file=sys.stderr, flush=True)
                pack(source, Recipe(image_size=image_size), str(directory), overwrite=True)
    return str(directory)


def _is_whole(directory: Path) -> bool:
    try:
        manifest.read_manifest(str(directory))
    except DataError:
        return False
    return True
