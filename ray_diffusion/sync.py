"""Ship what MLflow does not have yet of runs recorded on this machine; needs no Ray.

A run that is being recorded now ships by itself, and is passed over.
"""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from ray_diffusion import config, errors

if TYPE_CHECKING:
    from ray_diffusion.storage import Directory


class SyncRequest(config.Values):
    """Which runs are shipped, and where to."""

    runs: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="Directories or URLs of runs, or of what holds runs."
    )
    uri: str | None = Field(
        default=None, description="Where MLflow is now; null: where each run's tracking.uri says."
    )


def main(argv: list[str]) -> None:
    """Ship what is left, and print a line for each run.

    Args:
        argv: ``RUN [RUN ...] [uri=MLFLOW]``.
    """
    request = config.request(argv, SyncRequest, verb="sync", doc=__doc__, positional=["runs"])
    from ray_diffusion.cluster.record import ship

    for place in request.runs:
        for name, run in _runs(place):
            print(f"{name}: {ship(run, request.uri)}", flush=True)


def _runs(place: str) -> Iterator[tuple[str, "Directory"]]:
    """The run of a directory and those that it holds, by the names that the user knows them by."""
    from ray_diffusion.cluster.lineage import ORIGIN
    from ray_diffusion.storage import Directory

    directory = Directory(place)
    names = directory.names()
    held = [name for name in names if (directory / name).read(ORIGIN) is not None]
    if ORIGIN in names:
        yield place, directory
    elif not held:
        raise errors.UsageError(f"{directory.url} is neither a run nor does it hold any")
    for name in held:  # of a run that stands for a sweep, its trials
        yield f"{place.rstrip('/')}/{name}", directory / name


if __name__ == "__main__":
    sys.exit(errors.run(main))
