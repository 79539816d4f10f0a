"""One writer to a file: an exclusive lock that vanishes with the process that holds it.

The lock is `flock(2)`, so a killed process leaves none behind. The file's text only says who holds
it, for the message to a second process.
"""

import contextlib
import fcntl
import os
import socket
import time
from pathlib import Path
from typing import BinaryIO

from ray_diffusion.errors import UsageError

POLL_S = 0.05


def hold(path: Path, wait_s: float) -> BinaryIO:
    """Take the lock, or say who has it.

    Args:
        path: The lock file; made if missing and never removed, as removing it would let a third
            process lock a new file of the same name.
        wait_s: How long to wait for a holder, in seconds. A killed process takes a moment to go,
            and its forked children (data loaders) hold the lock until they notice.

    Returns:
        The open file; closing it frees the lock.

    Raises:
        UsageError: If another process still holds the lock after ``wait_s``.
        OSError: If the file cannot be opened or the file system knows no locks.
    """
    file = path.open("a+b", buffering=0)
    deadline = time.monotonic() + wait_s
    try:
        while not _try_lock(file):
            if time.monotonic() >= deadline:
                raise UsageError(
                    f"another process is writing this run's metrics ({_holder(path)}); "
                    "wait for it or choose another run.name"
                )
            time.sleep(POLL_S)
    except BaseException:
        file.close()
        raise
    with contextlib.suppress(OSError):  # a full disk: locked all the same, only unsigned
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
    return file


def _try_lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(path: Path) -> str:
    return path.read_text(errors="replace").strip() or "its pid is unknown"
