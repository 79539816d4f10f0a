"""What is asked of a packer, and whether it was done before."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import PIL

from ray_diffusion.data.manifest import Manifest, read_manifest
from ray_diffusion.data.packing.recipe import Recipe
from ray_diffusion.data.packing.source import Source
from ray_diffusion.errors import DataError, UsageError
from ray_diffusion.storage import MANIFEST, Directory

VERSION = 2  # raise it when the same request comes to write other bytes


def request_of(source: Source, recipe: Recipe) -> dict[str, Any]:
    """All that the bytes of a dataset depend on.

    Args:
        source: The images.
        recipe: What is to be done with them.

    Returns:
        Plain values; the manifest holds them as ``packer``.
    """
    records = hashlib.sha256(json.dumps([source.classes, source.image_size]).encode())
    for record in source.records:
        records.update(json.dumps(record).encode())
    return {
        "version": VERSION,
        "pillow": PIL.__version__,
        "source": source.name,
        "records": records.hexdigest()[:16],
        **recipe.model_dump(),
    }


def earlier(directory: Directory, request: Mapping[str, Any]) -> Manifest | None:
    """The dataset in a directory, if this very request has made it.

    Args:
        directory: Where to look.
        request: What is asked for.

    Returns:
        Its manifest; None if there is no dataset.

    Raises:
        UsageError: If there is another one.
        StorageError: If the directory cannot be read.
    """
    if directory.read(MANIFEST) is None:
        return None
    advice = "choose another out, or overwrite=true"
    try:
        manifest = read_manifest(directory.url)
    except DataError as error:
        raise UsageError(f"{error}; {advice}") from error
    # What another Pillow has packed need not be packed again.
    if manifest.packer | {"pillow": request["pillow"]} != request:
        raise UsageError(
            f"{directory.url} holds another dataset (fingerprint {manifest.fingerprint}); {advice}"
        )
    return manifest
