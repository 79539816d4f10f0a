"""Ship what MLflow does not have yet of runs recorded on this machine; needs no Ray.

A run that is being recorded now ships by itself, and is passed over.
"""

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from ray_diffusion import config, errors

if TYPE_CHECKING:
    from ray_diffusion.storage import Directory

MLFLOW_WAIT_S = 20.0  # for the run; an MLflow that is away is told from a slow one
PATIENCE_S = 120.0  # without a point arriving: a model may have to be uploaded between two


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
    for place in request.runs:
        for name, run in _runs(place):
            print(f"{name}: {_ship(run, request.uri)}", flush=True)


def _runs(place: str) -> Iterator[tuple[str, "Directory"]]:
    """The run of a directory, or those that it holds, by the names that the user knows them by."""
    from ray_diffusion.cluster.lineage import ORIGIN
    from ray_diffusion.storage import Directory

    directory = Directory(place)
    names = directory.names()
    if ORIGIN in names:
        yield place, directory
        return
    held = [name for name in names if (directory / name).read(ORIGIN) is not None]
    if not held:
        raise errors.UsageError(f"{directory.url} is neither a run nor does it hold any")
    for name in held:
        yield f"{place.rstrip('/')}/{name}", directory / name


def _ship(run: "Directory", uri: str | None) -> str:
    """Ship what is left of a run, and say what became of it."""
    from ray_diffusion.cluster import summary
    from ray_diffusion.cluster.lineage import adopt_tail, leftovers, recorded, ship_leftovers
    from ray_diffusion.tracking.run import find_or_create

    trained, identity = recorded(run, uri)
    try:
        adopt_tail(run, trained, identity)
        left = leftovers(trained, identity)
        if not left:
            return "nothing was left"
        found = find_or_create(identity, deadline_s=MLFLOW_WAIT_S)
        shipped, run_id = ship_leftovers(trained, identity, PATIENCE_S)
    except errors.UsageError:
        return "is being recorded now, and ships by itself"
    if not shipped:
        raise errors.TrackingError(
            f"MLflow at {identity.shown_uri} stopped taking records of {run.url}; "
            "nothing is lost, the same command goes on"
        )
    if facts := summary.read(run):
        facts |= {"shipped": True, "mlflow_run_id": run_id}
        run.write(summary.FILE, json.dumps(facts, indent=1))
    return f"{sum(left.values()):,} points shipped, {found.url or f'run {run_id}'}"


if __name__ == "__main__":
    sys.exit(errors.run(main))
