"""Where things are: paths and URLs, the cache of this machine, and errors in one line."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray_diffusion.errors import RayDiffusionError, StorageError


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
    except RayDiffusionError:
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
