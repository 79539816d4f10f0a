"""Directories in any storage that fsspec reaches, and the seal that makes a directory whole.

A sealed directory holds a ``manifest.json`` with the bytes and SHA-256 of each of its files,
written last: no valid manifest, no directory. That is the only commit protocol of this project,
because object stores have no rename and an interrupted ``open(..., "wb")`` publishes half a file.
"""

from ray_diffusion.storage.directory import Directory, Stored
from ray_diffusion.storage.places import absolute, cache_dir, explained, is_local, make_cache_dir
from ray_diffusion.storage.seal import MANIFEST, damage, digest, manifest_of, seal

__all__ = [
    "MANIFEST",
    "Directory",
    "Stored",
    "absolute",
    "cache_dir",
    "damage",
    "digest",
    "explained",
    "is_local",
    "make_cache_dir",
    "manifest_of",
    "seal",
]
