"""The seal that makes a directory whole: a manifest, written last, of the files it holds."""

import hashlib
import json
import os
from pathlib import Path

MANIFEST = "manifest.json"


def digest(path: Path) -> dict[str, int | str]:
    """Bytes and SHA-256 of a file, as a manifest lists them."""
    with path.open("rb") as file:
        return {
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def seal(directory: Path) -> None:
    """Write the manifest of a finished local directory.

    Args:
        directory: Holds plain files only.
    """
    files = {p.name: digest(p) for p in sorted(directory.iterdir()) if p.name != MANIFEST}
    (directory / MANIFEST).write_text(manifest_of(files))


def manifest_of(files: dict[str, dict[str, int | str]]) -> str:
    """The text of a manifest that lists files by name, each as ``digest`` describes it."""
    return json.dumps({"version": 1, "files": files}, indent=1)


def listed(manifest: bytes) -> dict[str, object] | None:
    """The files that a manifest lists, or None if it is damaged."""
    try:
        files: dict[str, object] = dict(json.loads(manifest)["files"].items())
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    # Plain names only: a path could lead out of the directory.
    return files if all(name == os.path.basename(name) for name in files) else None


def damage(directory: Path) -> str | None:
    """What is wrong with a sealed local directory.

    Args:
        directory: A directory that should hold a manifest and all it lists.

    Returns:
        None if every file is as the manifest says, else the first difference in words.
    """
    try:
        files = listed((directory / MANIFEST).read_bytes())
    except FileNotFoundError:
        return f"has no {MANIFEST}"
    if files is None:
        return f"has a damaged {MANIFEST}"
    for name, expected in files.items():
        path = directory / name
        if not path.is_file():
            return f"lacks {name}"
        if digest(path) != expected:
            return f"has a damaged {name}"
    return None
