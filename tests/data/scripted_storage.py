"""A storage in memory whose downloads do what a test says; it holds what ``memory://`` holds."""

from collections.abc import Callable
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

Script = Callable[[str, str], None]


def as_usual(name: str, path: str) -> None:
    """Let a download be."""


class ScriptedFileSystem(MemoryFileSystem):
    """Asks a script before each download.

    Attributes:
        script: Called with the file's name and where it goes to; may raise, or write there.
        downloads: Names of all files that were asked for, in order.
    """

    protocol = "scripted"
    script: ClassVar[Script] = staticmethod(as_usual)
    downloads: ClassVar[list[str]] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("scripted://", "memory://"))

    def get_file(self, rpath: str, lpath: str, *args: Any, **kwargs: Any) -> None:
        name = rpath.rsplit("/", 1)[-1]
        self.downloads.append(name)
        type(self).script(name, lpath)
        super().get_file(rpath, lpath, *args, **kwargs)


fsspec.register_implementation("scripted", ScriptedFileSystem, clobber=True)
