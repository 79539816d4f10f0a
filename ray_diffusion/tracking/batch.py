"""The log of a spool, cut into pieces that one call to MLflow can take."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

from ray_diffusion.tracking.events import Event, Points, decode

BATCH_POINTS = 900
"""MLflow refuses more than 1000 entities in one request."""


@dataclass(frozen=True)
class Batch:
    """Events that lie together in the log: points only, or a single other event, or none.

    None when the piece held nothing but damaged lines; it has to be acked all the same.
    """

    events: Sequence[Event]
    end: int
    """Offset in the log behind the batch, in bytes."""

    @property
    def num_points(self) -> int:
        """How many values of metrics the batch holds."""
        return sum(len(event.metrics) for event in self.events if isinstance(event, Points))

    @property
    def marks(self) -> dict[str, int]:
        """The largest step of each metric in the batch."""
        marks: dict[str, int] = {}
        for event in self.events:
            if isinstance(event, Points):
                marks.update(dict.fromkeys(event.metrics, event.step))
        return marks

    def beyond(self, marks: Mapping[str, int]) -> "Batch":
        """The batch without the points at or below the mark of their name."""
        return replace(self, events=[e for event in self.events if (e := beyond(event, marks))])


def beyond(event: Event, marks: Mapping[str, int]) -> Event | None:
    """An event without the points at or below the mark of their name; None if none is left."""
    if not isinstance(event, Points):
        return event
    new = {n: value for n, value in event.metrics.items() if event.step > marks.get(n, -1)}
    return replace(event, metrics=new) if new else None


def highest(marks: Mapping[str, int], others: Mapping[str, int]) -> dict[str, int]:
    """The larger mark of each name."""
    return {name: max(marks.get(name, -1), others.get(name, -1)) for name in {**marks, **others}}


def batches(log: BinaryIO, start: int, end: int, limit: int) -> Iterator[Batch]:
    """Cut the log between two offsets into batches, in order.

    Args:
        log: The log, opened for reading.
        start: Offset of the first line, in bytes.
        end: Offset behind the last line; what lies behind it may be half written.
        limit: The most points in a batch; a single line with more is a batch of its own.
    """
    events: list[Event] = []
    num_points = 0
    batch_start = offset = start
    log.seek(start)
    while offset < end:
        line = log.readline()
        if not line:  # someone cut the log behind our back
            break
        event = decode(line)
        size = max(1, len(event.metrics)) if isinstance(event, Points) else limit
        if event and events and num_points + size > limit:
            yield Batch(events, offset)
            events, num_points, batch_start = [], 0, offset
        offset += len(line)
        if event:
            events.append(event)
            num_points += size
    if offset > batch_start:
        yield Batch(events, offset)
