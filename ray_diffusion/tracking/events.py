"""What a run has to tell MLflow, one event to a line of JSON.

An event carries the time at which it happened and is never given another: MLflow stores a point
once for each (name, step, timestamp, value), so a line that is sent twice arrives once.

To record a new kind of thing, write a frozen dataclass here, give it a letter in ``encode`` and
``decode``, and teach `ray_diffusion.tracking.delivery` how to send it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Points:
    """The values of some metrics at one step."""

    time_ms: int
    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Artifact:
    """A local file or directory that belongs into the run's artifact folder ``folder``."""

    time_ms: int
    path: str
    folder: str


@dataclass(frozen=True)
class Status:
    """The run reached a state, in MLflow's words: RUNNING, FINISHED, FAILED, KILLED."""

    time_ms: int
    status: str


@dataclass(frozen=True)
class Registration:
    """An artifact folder of the run is a version of the registered model ``name``."""

    time_ms: int
    name: str
    folder: str
    tags: Mapping[str, str]


Event = Points | Artifact | Status | Registration


def encode(event: Event) -> bytes:
    r"""One line, with its line feed.

    >>> encode(Points(time_ms=1700000000000, step=64, metrics={"train/loss": 0.5}))
    b'{"t":1700000000000,"s":64,"m":{"train/loss":0.5}}\n'
    """
    record: dict[str, Any] = {"t": event.time_ms}
    match event:
        case Points():
            record |= {"s": event.step, "m": dict(event.metrics)}
        case Artifact():
            record |= {"a": event.path, "to": event.folder}
        case Status():
            record |= {"status": event.status}
        case Registration():
            record |= {"r": event.name, "from": event.folder, "tags": dict(event.tags)}
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Event | None:
    r"""The event of a line; None for a damaged line or one of a kind that a later version wrote.

    >>> decode(b'{"t":1,"s":64,"m":{"val/loss":NaN}}')
    Points(time_ms=1, step=64, metrics={'val/loss': nan})
    >>> decode(b"\x00\x00\x00") is None
    True
    """
    try:
        match json.loads(line):
            case {"t": int(time_ms), "s": int(step), "m": dict(metrics)}:
                return Points(time_ms, step, {str(k): float(v) for k, v in metrics.items()})
            case {"t": int(time_ms), "a": str(path), "to": str(folder)}:
                return Artifact(time_ms, path, folder)
            case {"t": int(time_ms), "status": str(status)}:
                return Status(time_ms, status)
            case {"t": int(time_ms), "r": str(name), "from": str(folder), "tags": dict(tags)}:
                return Registration(time_ms, name, folder, tags)
    except (ValueError, TypeError):
        pass
    return None
