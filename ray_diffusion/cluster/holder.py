"""Who holds a lease, told so that another process can see whether the holder still lives."""

import json
import os
import secrets
import socket
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from ray_diffusion.tracking.identity import user

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Holder:
    """A process that trains a run.

    Attributes:
        run: The URL of the run's directory: a copy of the directory is another run.
        user: Login name.
        host: Name of the machine.
        pid: Process id.
        since: When the lease was taken, by the holder's clock; for people only.
        machine: What ``pid`` is unique in; "" where that is unknown.
        started: When the process started, in clock ticks since its machine did.
        nonce: Drawn once for each holder.
        beat: How often the lease was renewed.
    """

    run: str
    user: str
    host: str
    pid: int
    since: str
    machine: str
    started: int
    nonce: str
    beat: int = 0

    def __str__(self) -> str:
        return f"{self.user}@{self.host}, process {self.pid}, since {self.since}"

    @classmethod
    def here(cls, run: str) -> Self:
        """This process, as it trains the run of a URL from now on."""
        machine = _machine()
        return cls(
            run=run,
            user=user(),
            host=socket.gethostname(),
            pid=os.getpid(),
            since=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time.time())),
            machine=machine,
            started=_state_and_start(os.getpid())[1] if machine else 0,
            nonce=secrets.token_hex(8),
        )

    @classmethod
    def parse(cls, content: bytes) -> Self | None:
        """The holder that a lease names, or None if this version cannot read it."""
        try:
            return cls(**json.loads(content))
        except (ValueError, TypeError):
            return None

    def text(self) -> str:
        """The lease that names this holder."""
        return json.dumps(asdict(self), indent=1)

    def renewed(self) -> Self:
        """The same holder a beat later."""
        return replace(self, beat=self.beat + 1)

    def lives_beside(self, other: "Holder") -> bool | None:
        """Whether the process still runs.

        Args:
            other: This process, as a holder.

        Returns:
            True or False if it ran on this machine since its last boot and can be asked for; None
            if this process cannot tell.
        """
        if not other.machine or (self.machine, self.run) != (other.machine, other.run):
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's, so it is there
            pass
        try:
            state, started = _state_and_start(self.pid)
        except OSError:  # hidden from us
            return None
        # A zombie only waits for its parent to take notice. And process ids are used again.
        return state not in "ZX" and started == self.started


def _machine() -> str:
    """What process ids of this process are unique in, or "" if the system does not tell.

    The host's name is not enough: containers share it, or change it. The boot's random id tells
    machines and their boots apart, the namespace of process ids the containers of one machine.
    """
    try:
        return f"{BOOT_ID.read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return ""


def _state_and_start(pid: int) -> tuple[str, int]:
    """A process's state, as proc(5) has it, and when it started, in clock ticks since the boot."""
    # Behind the command, which is in parentheses and may hold anything: fields 3 and 22.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], int(fields[19])
