"""A directory in any storage that fsspec reaches."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import fsspec

from ray_diffusion.storage.options import client_settings
from ray_diffusion.storage.places import absolute, explained, is_local
from ray_diffusion.storage.seal import MANIFEST, damage, listed, seal


class Stored(NamedTuple):
    """A file found in a directory.

    Attributes:
        name: Its path below the directory, with forward slashes.
        bytes: Its size.
        stamp: Another one after each change, as far as the storage tells.
    """

    name: str
    bytes: int
    stamp: str


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
            self._fs, self._root = fsspec.core.url_to_fs(self.url, **client_settings(self.url))

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
            except FileNotFoundError as error:
                _refuse_no_bucket(error)
                return []
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in found)

    def read(self, name: str) -> bytes | None:
        """The content of a file, or None if there is none."""
        with explained("read", f"{self.url}/{name}"):
            try:
                content: bytes = self._fs.cat_file(f"{self._root}/{name}")
            except (FileNotFoundError, NotADirectoryError) as error:
                _refuse_no_bucket(error)
                return None
        return content

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """Some bytes of a file.

        Raises:
            StorageError: If they cannot be read, also where there is no such file.
        """
        with explained("read", f"{self.url}/{name}"):
            content: bytes = self._fs.cat_file(
                f"{self._root}/{name}", start=offset, end=offset + size
            )
        return content

    def get(self, name: str, path: Path) -> bool:
        """Bring a file to this machine.

        Args:
            name: Which.
            path: Where to; overwritten, and worthless if this raises.

        Returns:
            Whether there is such a file.
        """
        with explained("read", f"{self.url}/{name}"):
            try:
                self._fs.get_file(f"{self._root}/{name}", str(path))
            except (FileNotFoundError, NotADirectoryError):
                if not path.parent.is_dir():  # it is this machine that lacks something
                    raise
                return False
        return True

    def walk(self) -> Iterator[Stored]:
        """All files of the directory and those below it, sorted by name."""
        with explained("list", self.url):
            self._fs.invalidate_cache(self._root)
            found = self._fs.find(self._root, detail=True)
        prefix = len(self._root.rstrip("/")) + 1
        for path, facts in sorted(found.items()):
            changed = next((facts[k] for k in ("ETag", "mtime", "created") if facts.get(k)), "")
            yield Stored(path[prefix:], int(facts["size"] or 0), str(changed))

    def write(self, name: str, content: str | bytes) -> None:
        """Write a whole file, or nothing: readers never see half of it."""
        data = content.encode() if isinstance(content, str) else content
        with explained("write", f"{self.url}/{name}"), tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch, "file")
            path.write_bytes(data)
            self.put(path, name)

    def put(self, path: Path, name: str) -> None:
        """Upload a whole local file under a name."""
        target = f"{self._root}/{name}"
        with explained("write", f"{self.url}/{name}"):
            if is_local(self.url):  # copying is not atomic on a file system; renaming is
                os.makedirs(os.path.dirname(target), exist_ok=True)
                # Of a name of its own: others may write the same file at the same time.
                temporary = Path(f"{target}.{uuid.uuid4().hex[:8]}.tmp")
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
        files = listed(content)
        if files is None:
            return f"has a damaged {MANIFEST}"
        for file in files:
            if not source.get(file, into / file):
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


def _refuse_no_bucket(error: OSError) -> None:
    """Where not even the bucket is there, nothing is merely absent: it is misspelt."""
    if "bucket does not exist" in str(error):
        raise error
