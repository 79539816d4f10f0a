"""How many trials run at once, and what becomes of those whose process fails for the last time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from local_cluster import Cluster

from ray_diffusion.cluster.sweeping.execution import at_once
from ray_diffusion.config.sweep import Resources

FILE = """
method: grid
metric: {name: train/loss}
confirm: {top: 0}
resources: {max_concurrent: 1}
parameters:
  optim.lr: {values: [1e-3, 1e-5, 1e-2]}
"""

SCRIPT = """
import json, os, sys
from pathlib import Path

import ray

from ray_diffusion.cluster.connect import connected
from ray_diffusion.cluster.sweeping import execution
from ray_diffusion.cluster.sweeping.judge import Judge, Task
from ray_diffusion.cluster.sweeping.reporting import TrialBoard
from ray_diffusion.cluster.sweeping.trial import Search
from ray_diffusion.config.sweep import load_sweep
from ray_diffusion.errors import WorkersFailed


def trial(chosen, search):
    task = search.tasks[chosen["task"]]
    ray.get(search.judge.begin.remote(task))
    if task.number == 0:
        error = WorkersFailed("worker 0 failed once too often")
        error.add_note("continue   the same command again")
        raise error
    if task.number == 1:
        os._exit(1)
    board = TrialBoard(search.judge, task.name, search.plan.sweep.metric.name)
    board.post({"images_seen": 640, "loss": 0.5})
    board.post({"images_seen": 640, "validated": {"val/score": 0.1}})
    ray.get(search.judge.leave.remote(task.name))


home = sys.argv[1]
plan = load_sweep(Path(home, "failing.yaml"), ["cluster.max_failures=0"])
with connected():
    judge = ray.remote(num_cpus=0)(Judge).remote(plan, home, "a sweep", {})
    tasks = [Task.of_search(number) for number in range(3)]
    execution.run_trial = trial
    search = Search(plan, home, judge, tasks, made_with=None, environment={})
    reasons = execution.execute(search, lambda news: None)
    news = ray.get(judge.read.remote())
    curves = {name: trial.curve for name, trial in news.trials.items()}
print(json.dumps([reasons, list(news.facts), curves]))
"""


@pytest.mark.parametrize(
    ("given", "have", "most"),
    [
        ({}, {"CPU": 4.0}, 4),
        ({"cpus_per_worker": 3}, {"CPU": 8.0}, 2),
        ({"gpus_per_worker": 0.1}, {"CPU": 64.0, "GPU": 2.0}, 20),
        ({"num_workers": 2, "gpus_per_worker": 1}, {"CPU": 64.0, "GPU": 8.0}, 4),
        ({"max_concurrent": 3}, {"CPU": 8.0}, 3),
        ({"max_concurrent": 9}, {"CPU": 8.0}, 8),
        ({"cpus_per_worker": 16}, {"CPU": 8.0}, 1),
    ],
)
def test_as_many_trials_run_at_once_as_there_is_room_for(
    given: dict[str, float], have: dict[str, float], most: int
):
    assert at_once(Resources.model_validate(given), have) == most


@pytest.mark.ray
def test_trials_that_are_given_up_hold_nothing_and_say_why(cluster: Cluster, tmp_path: Path):
    (tmp_path / "failing.yaml").write_text(FILE)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env=cluster.env | {"RAY_AUTH_MODE": "token"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    reasons, running, curves = json.loads(done.stdout.splitlines()[-1])
    assert reasons == {
        "trial-0000": "worker 0 failed once too often",
        "trial-0001": "The actor died unexpectedly before finishing this task.",
    }
    assert running == []
    assert curves["trial-0002"] == {"640": 0.5}  # the loss of the step that was validated
