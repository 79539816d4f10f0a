"""What a run is made with: code, packages and machine, as tags and files of its page.

To tell one fact more, add a line to `lineage_tags`; what is too long for a tag is a file of
`lineage_files`.
"""

import hashlib
import os
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path

from ray_diffusion.config.passwords import without_passwords
from ray_diffusion.tracking.identity import user

SOURCE = Path(__file__)
"""The code whose history is told; in an installed copy it has none."""

ENVIRONMENT, DIFF = "environment.txt", "git.diff"

IMAGE = "RAY_DIFFUSION_IMAGE"
"""The variable in which a container finds the name of its image: it cannot know it otherwise."""

VERSIONED = ("ray-diffusion", "torch", "ray", "mlflow", "numpy")

GIT_TIMEOUT_S = 5.0
"""A work tree on a slow network disk must not hold up the start of a run."""

DIFF_BYTES = 1_000_000
"""A longer difference is cut: it is data that was put under version control, not code."""

DIGEST_CHARACTERS = 12

CPUINFO = Path("/proc/cpuinfo")


def lineage_tags() -> dict[str, str]:
    """What makes the run: code, versions, command and machine, as far as they can be told.

    ``git.diff`` is a digest of what differs from the commit in files under version control, or
    ``none``; ``environment.digest`` one of ``environment.txt``.
    """
    tags = {
        "command": _command(),
        "host": socket.gethostname(),
        "hardware.cpu": f"{_cpu_model()}, {len(os.sched_getaffinity(0))} cores",
        "hardware.memory": f"{_memory_bytes() / 2**30:.0f} GiB",
        "environment.digest": _digest(environment().encode()),
        "version.python": platform.python_version(),
        # MLflow's own names: its pages show these two beside the run.
        "mlflow.source.name": Path(sys.argv[0]).name or "python",
        "mlflow.user": user(),
    }
    for package in VERSIONED:
        try:
            tags[f"version.{package}"] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if image := os.environ.get(IMAGE):
        tags["image"] = image
    if commit := _git("rev-parse", "HEAD"):
        tags["git.commit"] = tags["mlflow.source.git.commit"] = commit.decode().strip()
        diff = _diff()
        tags["git.dirty"] = str(diff != b"").lower()
        tags["git.diff"] = _digest(diff) if diff else "unknown" if diff is None else "none"
    return tags


def lineage_files() -> dict[str, bytes]:
    """What tags have no room for, by file name.

    ``git.diff``, where files under version control differ from the commit, is in the form that
    ``git apply`` takes. It begins with the names of files that git does not know, whose content
    may be anything and stays here, and is cut behind `DIFF_BYTES`.
    """
    files = {}
    if diff := _diff():
        unknown = _git("ls-files", "--others", "--exclude-standard", "--full-name", ":/") or b""
        notes = [f"# not in here, as git does not know it: {name}" for name in _lines(unknown)]
        if len(diff) > DIFF_BYTES:
            notes.append(f"# cut: the first {DIFF_BYTES:,} of {len(diff):,} bytes")
        head = "".join(f"{note}\n" for note in notes)
        files[DIFF] = _bytes(head) + diff[:DIFF_BYTES]
    return files | {ENVIRONMENT: environment().encode()}


@dataclass(frozen=True)
class Lineage:
    """What a run is made with, as the process knows it that the user has started.

    Attributes:
        tags: As of `lineage_tags`.
        files: As of `lineage_files`.
    """

    tags: Mapping[str, str] = field(default_factory=lineage_tags)
    files: Mapping[str, bytes] = field(default_factory=lineage_files)


@cache
def environment() -> str:
    """Every installed distribution with its version, in the form of pip's constraint files."""
    found = {(d.metadata["Name"], d.version) for d in metadata.distributions()}
    lines = sorted(f"{name}=={version}" for name, version in found if name)
    return "\n".join([f"# Python {platform.python_version()}", *lines, ""])


def _command() -> str:
    return without_passwords(shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]]))


def _cpu_model() -> str:
    if CPUINFO.exists():
        for line in CPUINFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()  # ARM's kernel names no model


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGEST_CHARACTERS]


def _diff() -> bytes | None:
    """What differs from the commit, whatever the user's settings of git; None if git fails."""
    plain = ("--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/")
    diff = _git("diff", "HEAD", "--binary", *plain)
    # Bytes stay as they are but for passwords: files need not be UTF-8.
    return diff and _bytes(without_passwords(diff.decode(errors="surrogateescape")))


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _lines(output: bytes) -> list[str]:
    return output.decode(errors="surrogateescape").splitlines()


def _git(*arguments: str) -> bytes | None:
    """What git says about this package's source; None if it is not a work tree of its own."""
    git = ["git", "-C", str(SOURCE.parent)]
    # Locks are for git's own index refresh, which a run must not do under the user's hands.
    quiet = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    try:
        # An installed copy may lie inside a work tree of something else: only a tracked file tells.
        for command in ([*git, "ls-files", "--error-unmatch", SOURCE.name], [*git, *arguments]):
            done = subprocess.run(command, capture_output=True, env=quiet, timeout=GIT_TIMEOUT_S)
            if done.returncode:
                return None
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout
