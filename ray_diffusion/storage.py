"""Directories in any storage that fsspec reaches, and the seal that makes a directory whole.

A sealed directory holds a ``manifest.json`` with the bytes and SHA-256 of each of its files,
written last: no valid manifest, no directory. That is the only commit protocol of this project,
because object stores have no rename and an interrupted ``open(..., "wb")`` publishes half a file.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec

from ray_diffusion.errors import StorageError

MANIFEST = "manifest.json"


def absolute(url: str) -> str:
    """A location that means the same in every process.

    Args:
        url: A URL, or a local path, which may be relative or start with ``~``.

    Returns:
        The URL as it is; a path, or what ``file://`` stands before, as an absolute path.
    """
    url = url.removeprefix("file://")
    return url if "://" in url else os.path.abspath(os.path.expanduser(url))


def is_local(url: str) -> bool:
    """Whether a location is a path on this machine rather than a URL."""
    return "://" not in url


def cache_dir() -> Path:
    """Where what can be made again is kept: ``$XDG_CACHE_HOME/ray_diffusion``, or ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ray_diffusion"


@contextmanager
def explained(action: str, url: str) -> Iterator[None]:
    """Turn what a store's client raises, of whatever class, into one line for the user.

    Args:
        action: What is being done, as it follows "cannot".
        url: To what.

    Raises:
        StorageError: If the block raises.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise StorageError(f"cannot {action} {url}: {' '.join(reason.split())}") from error


def make_cache_dir(name: str) -> Path:
    """One of the cache's directories, made if there is none yet.

    Args:
        name: Its name below ``cache_dir()``.

    Returns:
        Its path.

    Raises:
        StorageError: If it cannot be made; the line says what to set.
    """
    path = cache_dir() / name
    with explained("make the cache directory (set XDG_CACHE_HOME)", str(path)):
        path.mkdir(parents=True, exist_ok=True)
    return path


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
    (directory / MANIFEST).write_text(json.dumps({"version": 1, "files": files}, indent=1))


def _listed(manifest: bytes) -> dict[str, object] | None:
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
        files = _listed((directory / MANIFEST).read_bytes())
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


class Directory:
    """A directory in any storage: a run's, a dataset's, a model's.

    Args:
        url: A local path or fsspec URL; need not exist yet.

    Raises:
        StorageError: If the URL names no known kind of storage.
    """

    def __init__(self, url: str) -> None:
        self.url = absolute(url).rstrip("/")
        with explained("use", self.url):
            self._fs, self._root = fsspec.core.url_to_fs(self.url)

    def __truediv__(self, name: str) -> "Directory":
        return Directory(f"{self.url}/{name}")

    def local_path(self) -> Path | None:
        """The directory as a local path, if it is one."""
        return Path(self.url) if is_local(self.url) else None

    def names(self) -> list[str]:
        """Names of what the directory holds, sorted; empty if it does not exist."""
        with explained("list", self.url):
            self._fs.invalidate_cache(self._root)
            try:
                found = self._fs.ls(self._root, detail=False)
            except FileNotFoundError:
                return []
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in found)

    def read(self, name: str) -> bytes | None:
        """The content of a file, or None if there is none."""
        with explained("read", f"{self.url}/{name}"):
            try:
                content: bytes = self._fs.cat_file(f"{self._root}/{name}")
            except (FileNotFoundError, NotADirectoryError):
                return None
        return content

    def write(self, name: str, content: str | bytes) -> None:
        """Write a whole file, or nothing: readers never see half of it."""
        data = content.encode() if isinstance(content, str) else content
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch, "file")
            path.write_bytes(data)
            self.put(path, name)

    def put(self, path: Path, name: str) -> None:
        """Upload a whole local file under a name."""
        target = f"{self._root}/{name}"
        with explained("write", f"{self.url}/{name}"):
            if is_local(self.url):  # copying is not atomic on a file system; renaming is
                os.makedirs(os.path.dirname(target), exist_ok=True)
                temporary = Path(f"{target}.tmp")
                try:
                    shutil.copyfile(path, temporary)
                    os.replace(temporary, target)
                finally:
                    temporary.unlink(missing_ok=True)
            else:
                self._fs.put_file(str(path), target)

    def publish(self, directory: Path, name: str) -> None:
        """Seal a local directory and upload it, its manifest last.

        Args:
            directory: Holds plain files only.
            name: What it is called here. A leftover of that name is overwritten.
        """
        seal(directory)
        self.remove(name)
        for path in sorted(directory.iterdir()):
            if path.name != MANIFEST:
                self.put(path, f"{name}/{path.name}")
        self.put(directory / MANIFEST, f"{name}/{MANIFEST}")

    def fetch(self, name: str, into: Path) -> str | None:
        """Bring a sealed directory to this machine and verify it.

        Args:
            name: The sealed directory; ``""`` is this one.
            into: Where to; created.

        Returns:
            None if it is whole, else what is wrong with it in words.
        """
        source = self / name if name else self
        content = source.read(MANIFEST)
        if content is None:
            return f"has no {MANIFEST}"
        into.mkdir(parents=True, exist_ok=True)
        (into / MANIFEST).write_bytes(content)
        files = _listed(content)
        if files is None:
            return f"has a damaged {MANIFEST}"
        with explained("read", source.url):
            for file in files:
                try:
                    self._fs.get_file(f"{source._root}/{file}", str(into / file))
                except FileNotFoundError:
                    return f"lacks {file}"
        return damage(into)

    def remove(self, name: str) -> None:
        """Delete a file or directory; nothing happens if there is none."""
        target = f"{self._root}/{name}"
        with explained("delete", f"{self.url}/{name}"):
            with suppress(FileNotFoundError, NotADirectoryError):
                # The manifest first: from here on the directory does not count.
                self._fs.rm_file(f"{target}/{MANIFEST}")
            with suppress(FileNotFoundError):
                self._fs.rm(target, recursive=True)

    def check_writable(self) -> None:
        """Prove that the directory can be written, and leave no trace.

        Raises:
            StorageError: If it cannot.
        """
        probe = f".probe-{os.getpid()}"
        local = self.local_path()
        made = [] if local is None else [p for p in (local, *local.parents) if not p.exists()]
        try:
            self.write(probe, b"")
            self.remove(probe)
        finally:
            for path in made:
                with suppress(OSError):  # another process may have come to use it meanwhile
                    path.rmdir()
