"""The whole packer: inspect, choose, write, report, and the manifest last of all."""

from collections.abc import Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, TypeVar

from ray_diffusion.data.manifest import Manifest
from ray_diffusion.data.packing import inspect, write
from ray_diffusion.data.packing.choose import Choice, check, choose
from ray_diffusion.data.packing.images import Finding
from ray_diffusion.data.packing.inspect import InspectTask, inspect_records
from ray_diffusion.data.packing.moments import Moments
from ray_diffusion.data.packing.output import REPORT, notes_of, refuse_lost, sizes, tidy
from ray_diffusion.data.packing.recipe import Recipe
from ray_diffusion.data.packing.report import PICTURES, report
from ray_diffusion.data.packing.request import earlier, request_of
from ray_diffusion.data.packing.source import Source
from ray_diffusion.data.packing.stages import Progress, Runner, results, silent
from ray_diffusion.data.packing.write import ShardTask, Written, rendered, write_shard
from ray_diffusion.errors import UsageError
from ray_diffusion.storage import Directory, absolute

PER_TASK = 256  # images that one task inspects

T = TypeVar("T")


def pack(
    source: Source,
    recipe: Recipe,
    out: str,
    run: Runner = map,
    progress: Progress = silent,
    overwrite: bool = False,
) -> Manifest:
    """Make a dataset of a source.

    The same request writes the same bytes, whoever runs its tasks and however often it was
    killed and typed again: what was finished is not done twice.

    Args:
        source: The images.
        recipe: What to do with them.
        out: Where the dataset goes, a path or URL.
        run: Does the tasks.
        progress: Is told how far each stage is.
        overwrite: Whether a dataset that is there is replaced, at the very end.

    Returns:
        The manifest, in place last of all: an interrupted packer leaves no dataset, or the one
        that was there.

    Raises:
        UsageError: If the recipe does not fit the source, or another dataset is there.
        DataError: If too much of the source is damaged, or too little is left of it.
        StorageError: If ``out`` cannot be written, or a worker writes somewhere else.
    """
    directory = Directory(out)
    if directory.url == absolute(source.name):
        raise UsageError(f"out: {out} is the source itself; choose another")
    check(recipe)  # before the work
    request = request_of(source, recipe)
    there = None if overwrite else earlier(directory, request)
    if there is not None:
        return there
    findings = _inspect(source, recipe, directory / notes_of(request), run, progress)
    choice = choose(source.records, findings, recipe, source.image_size)
    tasks = _shard_tasks(source, findings, choice, recipe, directory)
    notes = directory / notes_of(request, choice)
    restore = partial(write.restored, sizes=sizes(directory))
    written = list(results("packed", write_shard, tasks, notes, restore, run, progress))
    refuse_lost(directory, [one.shard for one in written])
    manifest = _manifest(source, choice, tasks, written, request)
    sheet = _sheet(tasks, source.classes)
    directory.write(REPORT, report(manifest, source, findings, choice, sheet, directory.url))
    manifest.write(directory)
    tidy(directory, manifest)
    return manifest


def _inspect(
    source: Source, recipe: Recipe, notes: Directory, run: Runner, progress: Progress
) -> list[Finding]:
    tasks = [
        InspectTask(f"inspect-{number:06d}", records, source.load, recipe)
        for number, records in enumerate(_cut(source.records, PER_TASK))
    ]
    found = results("inspected", inspect_records, tasks, notes, inspect.restored, run, progress)
    return list(chain.from_iterable(found))


def _shard_tasks(
    source: Source,
    findings: Sequence[Finding],
    choice: Choice,
    recipe: Recipe,
    directory: Directory,
) -> list[ShardTask]:
    return [
        ShardTask(
            split,
            number,
            [source.records[i] for i in members],
            [findings[i] for i in members],
            source.load,
            recipe,
            choice.image_size,
            choice.channels,
            len(source.classes),
            directory.url,
        )
        for split, indices in choice.splits.items()
        for number, members in enumerate(_cut(indices, recipe.examples_per_shard))
    ]


def _cut(sequence: Sequence[T], size: int) -> list[Sequence[T]]:
    return [sequence[start : start + size] for start in range(0, len(sequence), size)]


def _manifest(
    source: Source,
    choice: Choice,
    tasks: Sequence[ShardTask],
    written: Sequence[Written],
    request: dict[str, Any],
) -> Manifest:
    by_split: dict[str, list[Written]] = {}
    for task, one in zip(tasks, written, strict=True):
        by_split.setdefault(task.split, []).append(one)
    moments = sum((one.moments for one in by_split["train"]), Moments.none(choice.channels))
    return Manifest(
        image_size=choice.image_size,
        channels=choice.channels,
        classes=source.classes,
        splits={split: tuple(one.shard for one in of) for split, of in by_split.items()},
        class_counts={
            split: [sum(counts) for counts in zip(*(one.class_counts for one in of), strict=True)]
            for split, of in by_split.items()
        },
        channel_mean=moments.mean,
        channel_std=moments.std,
        rejected=dict(sorted(choice.rejected.items())),
        packer=request,
    )


def _sheet(tasks: Sequence[ShardTask], classes: Sequence[str]) -> list[tuple[str, bytes]]:
    """The first examples of the training split, with the names of their classes."""
    examples = chain.from_iterable(rendered(task) for task in tasks if task.split == "train")
    return [
        ("" if record.label is None else classes[record.label], image.content)
        for record, image in islice(examples, PICTURES)
    ]
