"""The first stage: look at every image once."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ray_diffusion.data.packing.images import UNREAD, Finding, inspect_image
from ray_diffusion.data.packing.recipe import Recipe
from ray_diffusion.data.packing.source import Record
from ray_diffusion.errors import StorageError


class InspectTask(NamedTuple):
    """Some records to look at.

    Attributes:
        name: Unique within the stage.
        records: Which.
        load: The source's.
        recipe: What makes an image unusable.
    """

    name: str
    records: Sequence[Record]
    load: Callable[[Record], bytes]
    recipe: Recipe


def inspect_records(task: InspectTask) -> list[Finding]:
    """What each image of a task is, in the order of its records."""
    return [_finding(record, task) for record in task.records]


def restored(note: Any) -> list[Finding] | None:
    """The findings that a note stands for; None if the storage failed then and may not now."""
    findings = [Finding(*values) for values in note]
    return None if any(finding.reason == UNREAD for finding in findings) else findings


def _finding(record: Record, task: InspectTask) -> Finding:
    try:
        content = task.load(record)
    except StorageError as error:
        return Finding(UNREAD, str(error))
    return inspect_image(content, task.recipe)
