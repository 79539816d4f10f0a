"""How a stage of the packer is run: by whom, and what a killed packer has done of it before."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Generic, Protocol, TypeVar

from ray_diffusion.storage import Directory

T = TypeVar("T")
R = TypeVar("R")
READERS = 16  # notes read at a time; object stores answer each request slowly


class Runner(Protocol):
    """Does tasks like the built-in ``map``, which is one: results come lazily and in order."""

    def __call__(self, function: Callable[[T], R], tasks: Iterable[T], /) -> Iterator[R]:
        """The result of each task."""
        ...


class Progress(Protocol):
    """Is told how far a stage is."""

    def __call__(self, stage: str, done: int, total: int, /) -> None:
        """Take note.

        Args:
            stage: What is done, in the past tense.
            done: To so many images or files.
            total: Out of so many.
        """
        ...


def silent(stage: str, done: int, total: int) -> None:
    """Tell nobody."""


class Task(Protocol):
    """Some examples for one worker."""

    @property
    def name(self) -> str:
        """Unique within its stage."""
        ...

    @property
    def records(self) -> Sequence[object]:
        """What it is about, one for each example."""
        ...


K = TypeVar("K", bound=Task)


@dataclass(frozen=True)
class _Noted(Generic[K, R]):
    """A stage's function that leaves a note of each result where a later packer finds it."""

    function: Callable[[K], R]
    notes: str  # URL

    def __call__(self, task: K) -> R:
        result = self.function(task)
        content = json.dumps(result, default=asdict)
        Directory(self.notes).write(_note(task), content)
        return result


def _note(task: Task) -> str:
    return f"{task.name}.json"


def results(
    stage: str,
    function: Callable[[K], R],
    tasks: Sequence[K],
    notes: Directory,
    restore: Callable[[Any], R | None],
    run: Runner,
    progress: Progress,
) -> Iterator[R]:
    """Do the tasks of a stage, but for those that an earlier packer finished.

    Args:
        stage: What is done, in the past tense; for ``progress``.
        function: What to do with a task; its result is of plain values and dataclasses.
        tasks: All tasks.
        notes: Where finished tasks leave notes. One place never serves two different lists of
            tasks, since a note is found by its task's name alone.
        restore: The result that a note's JSON stands for, None if it is to be had anew.
        run: Does the tasks.
        progress: Is told.

    Yields:
        The result of each task, in order.
    """
    names = set(notes.names())

    def kept(task: K) -> R | None:
        content = notes.read(_note(task)) if _note(task) in names else None
        try:
            return None if content is None else restore(json.loads(content))
        except ValueError:
            return None  # half a note, left by a machine that lost its power

    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(kept, tasks))
    todo = (task for task, result in zip(tasks, found, strict=True) if result is None)
    fresh = run(_Noted(function, notes.url), todo)
    all_results = (next(fresh) if result is None else result for result in found)
    yield from counted(stage, all_results, [len(task.records) for task in tasks], progress)


def counted(
    stage: str, results: Iterable[R], sizes: Sequence[int], progress: Progress
) -> Iterator[R]:
    """Pass results on and tell how many there were.

    Args:
        stage: What is done, in the past tense.
        results: The results of a stage's tasks.
        sizes: How much each of them counts.
        progress: Is told.
    """
    done, total = 0, sum(sizes)
    for result, size in zip(results, sizes, strict=True):
        yield result
        done += size
        progress(stage, done, total)
