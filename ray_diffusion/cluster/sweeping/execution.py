"""Tasks of a sweep on Ray Tune: side by side, watched, and none of their resources left behind."""

import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from typing import Any

import ray
import ray.tune
from ray.util.placement_group import placement_group_table, remove_placement_group

from ray_diffusion.cluster.sweeping.judge import News
from ray_diffusion.cluster.sweeping.trial import Search, run_trial
from ray_diffusion.config.sweep import Resources
from ray_diffusion.errors import RayDiffusionError

LOOK_S = 0.5
ON_THE_HEAD = {"node:__internal_head__": 0.001}


def execute(search: Search, show: Callable[[News], None]) -> dict[str, str]:
    """Train what is to be trained.

    Args:
        search: The sweep, with at least one task.
        show: Told again and again how it stands.

    Returns:
        Why trials have no end, by name, where another try might cure it.
    """
    outcome: list[Any] = []
    with (
        tempfile.TemporaryDirectory() as notes,
        open(os.devnull, "w") as nowhere,
        redirect_stdout(nowhere),  # Tune has a table, too
    ):
        tuner = _tuner(search, notes)
        thread = threading.Thread(
            target=lambda: outcome.append(_result(tuner)), name="ray-tune", daemon=True
        )
        thread.start()
        alive = True
        while alive:
            thread.join(LOOK_S)
            alive = thread.is_alive()  # before the look: what was left last is seen, too
            news: News = ray.get(search.judge.read.remote())
            for placement in news.left:
                reap(placement)
            show(news)
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return {
        search.tasks[result.config["task"]].name: _reason(result.error)
        for result in outcome[0]
        if result.error is not None
    }


def at_once(given: Resources, have: dict[str, float]) -> int:
    """How many trials a cluster has room for; at least one.

    Args:
        given: What each gets.
        have: What the cluster has.
    """
    need = {"CPU": given.cpus_per_worker, "GPU": given.gpus_per_worker}
    room = [
        have.get(name, 0) / (amount * given.num_workers) for name, amount in need.items() if amount
    ]
    most = max(1, int(min(room) + 1e-9))
    return most if given.max_concurrent == "auto" else min(most, given.max_concurrent)


def reap(placement: Any) -> None:
    """Free what a trial's workers held, if it is held still.

    Ray Train does so itself unless its controller was lost, and then asks the dashboard who lives:
    where that answers for another cluster, or not at all, the resources would be gone for good.
    """
    if placement_group_table(placement).get("state") not in (None, "REMOVED"):
        remove_placement_group(placement)


def _tuner(search: Search, notes: str) -> ray.tune.Tuner:
    given = search.plan.sweep.resources
    # The driver of several workers only waits: what it would hold, they would lack.
    alone = {"CPU": given.cpus_per_worker, "GPU": given.gpus_per_worker}
    held = alone if given.num_workers == 1 else ON_THE_HEAD
    have = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return ray.tune.Tuner(
        ray.tune.with_resources(ray.tune.with_parameters(run_trial, search=search), held),
        param_space={"task": ray.tune.grid_search(list(range(len(search.tasks))))},
        tune_config=ray.tune.TuneConfig(
            max_concurrent_trials=at_once(given, have),
            reuse_actors=True,  # what is imported and compiled serves the next trial, too
        ),
        run_config=ray.tune.RunConfig(
            # Tune's own notes, of no use after it: the journal is the truth.
            name=f"{search.plan.sweep.name}-{secrets.token_hex(4)}",
            storage_path=notes,
            failure_config=ray.tune.FailureConfig(
                max_failures=search.plan.base.cluster.max_failures
            ),
            callbacks=[_GivenUp(search.judge, [task.name for task in search.tasks])],
            verbose=0,
        ),
    )


class _GivenUp(ray.tune.Callback):
    """Tells the judge of trials whose process was lost for the last time: it cannot say so."""

    def __init__(self, judge: Any, names: Sequence[str]) -> None:
        self._judge, self._names = judge, names

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._judge.leave.remote(self._names[trial.config["task"]])


def _result(tuner: ray.tune.Tuner) -> Any:
    try:
        return tuner.fit()
    except Exception as error:
        return error


def _reason(error: Exception) -> str:
    """What a trial raised, in one line, without the traceback of the process it was in."""
    while isinstance(error, ray.exceptions.RayTaskError):
        error = error.cause
    first = str(error).strip().partition("\n")[0]
    said = isinstance(error, RayDiffusionError | ray.exceptions.RayError)
    return first if said and first else f"{type(error).__name__}: {first}"
