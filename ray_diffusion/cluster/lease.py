"""One launch to a run: a lease in the run's directory, which its holder keeps renewing.

The lease is a file that its holder writes again every beat. A launch that finds one

- asks the system about the holder's process, if that runs on this machine: it lives, and the
  launch is refused at once, or it is dead, and the launch takes over at once;
- else watches the file. One change tells that the holder lives, none in four beats that it is
  dead. No clock is compared with another one; and as the watcher counts how often it looked, not
  the time that went by, machines that slept and wake up together do not take each other for dead.

A launch that finds no holder writes a lease of its own. In a local directory launches do so one
after the other, under a lock. Elsewhere (object stores, file systems over a network) all of them
may write, so each waits a little and reads again: the last one to write has the run.

A holder reads before it renews: one that was suspended, or cut off from the storage, until another
launch took over finds that out at the first beat at which it can.
"""

import fcntl
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ray_diffusion.cluster.holder import Holder
from ray_diffusion.errors import StorageError, UsageError, warn
from ray_diffusion.storage import Directory, explained

FILE = "lease.json"
BEAT_S = 10.0
LEASE_BEATS = 4  # without a renewal, and the holder counts as dead
LOOKS = 5  # of a watcher in each beat


@contextmanager
def held(run: Directory, on_lost: Callable[[str], None], beat_s: float = BEAT_S) -> Iterator[None]:
    """Be the only launch that trains a run, while the block runs.

    Takes no time in a local directory, a fifth of a beat elsewhere, and four beats where a launch
    on another machine died and left its lease.

    Args:
        run: The run's directory; made if there is none.
        on_lost: Told in one line, by another thread, that another launch has taken over: this one
            must end, and write nothing more into the directory.
        beat_s: Time between two renewals, in seconds; the same for all launches of a run.

    Yields:
        Nothing.

    Raises:
        UsageError: If another launch trains the run.
        StorageError: If the lease cannot be read or written at the start. Faults of the storage
            later on are only warned of.
    """
    ours = Holder.here(run.url)
    _claim(run, ours, beat_s)
    ended = threading.Event()
    renewing = threading.Thread(
        target=_renew, args=(run, ours, on_lost, ended, beat_s), name="lease", daemon=True
    )
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join(beat_s)  # no longer: a storage that hangs must not keep the run from ending
        _release(run, ours)


def _claim(run: Directory, ours: Holder, beat_s: float) -> None:
    found = run.read(FILE)
    if found is not None:
        _outlive(run, found, ours, beat_s)
    with _alone(run) as alone:
        now = run.read(FILE)
        if now not in (found, None):  # another launch came first
            raise _refusal(run, now)
        run.write(FILE, ours.text())
    if not alone:
        time.sleep(beat_s / LOOKS)  # for those who found no holder either to have written
        now = run.read(FILE)
        if _is_foreign(now, ours):
            raise _refusal(run, now)


def _outlive(run: Directory, found: bytes, ours: Holder, beat_s: float) -> None:
    """Come back when the holder of a lease is known to be gone.

    Raises:
        UsageError: If it lives.
    """
    holder = Holder.parse(found)
    lives = holder.lives_beside(ours) if holder else None
    if lives:
        raise _refusal(run, found)
    if lives is False:
        return
    print(
        f"run '{_name(run)}' was being trained by {_who(run, found)}; "
        f"waiting up to {LEASE_BEATS * beat_s:.0f} s to see whether it still is",
        file=sys.stderr,
        flush=True,
    )
    for _ in range(LEASE_BEATS * LOOKS):
        time.sleep(beat_s / LOOKS)  # between looks: a living holder writes once a beat
        now = run.read(FILE)
        if now is None:
            return
        if now != found:
            raise _refusal(run, now)


@contextmanager
def _alone(run: Directory) -> Iterator[bool]:
    """Keep the other launches of this machine waiting; whether the storage lets us do that."""
    path = run.local_path()
    if path is None:
        yield False
        return
    with explained("write", f"{run.url}/{FILE}"):
        path.mkdir(parents=True, exist_ok=True)
        directory = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            locked = True
        except OSError:  # NFS locks no directories
            locked = False
        yield locked
    finally:
        os.close(directory)


def _renew(
    run: Directory,
    ours: Holder,
    on_lost: Callable[[str], None],
    ended: threading.Event,
    beat_s: float,
) -> None:
    """Write the lease again at each beat, until the run has ended or is another launch's."""
    missed = 0
    while not ended.wait(beat_s):
        try:
            found = run.read(FILE)
            if _is_foreign(found, ours):
                on_lost(
                    f"run '{_name(run)}' was taken over by {_who(run, found)}, because this launch "
                    f"had not renewed its lease for {LEASE_BEATS * beat_s:.0f} s"
                )
                return
            ours = ours.renewed()
            run.write(FILE, ours.text())
            missed = 0
        except (StorageError, OSError) as error:  # OSError: no room for a temporary file
            missed += 1
            if missed == LEASE_BEATS:
                warn(f"{error}; a launch on another machine would take this run over now")


def _release(run: Directory, ours: Holder) -> None:
    try:
        found = run.read(FILE)
        if found is not None and not _is_foreign(found, ours):
            run.remove(FILE)
    except StorageError as error:
        warn(f"{error}; the next launch may have to wait until this lease is stale")


def _is_foreign(content: bytes | None, ours: Holder) -> bool:
    """Whether a file is the lease of another launch; no file is nobody's."""
    if content is None:
        return False
    holder = Holder.parse(content)
    # By the nonce: a renewal that was reported as failed may have been written all the same.
    return holder is None or holder.nonce != ours.nonce


def _name(run: Directory) -> str:
    return run.url.rsplit("/", 1)[-1]


def _who(run: Directory, content: bytes | None) -> str:
    return f"{Holder.parse(content or b'') or 'another process'} (lease {run.url}/{FILE})"


def _refusal(run: Directory, content: bytes | None) -> UsageError:
    return UsageError(
        f"run '{_name(run)}' is being trained by {_who(run, content)}; "
        "wait for it, stop it, or choose another run.name"
    )
