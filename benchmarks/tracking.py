"""What recording a step's metrics costs the training thread: our spool against MLflow's clients.

Each way logs the same ten metrics a step to one server, from one process, in turns. A step costs as
long as its call keeps the training thread, by the clock on the wall, as waiting is what it is
about::

    python benchmarks/tracking.py

Nothing lies between two steps, so caches are warm: behind the work of a real step ours takes some
three times as long. The last column is what is left to wait for behind the last step.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean

from ray_diffusion.tracking.client import connect
from ray_diffusion.tracking.identity import RunIdentity
from ray_diffusion.tracking.tracker import Tracker

ROUNDS, STEPS = 3, 200
VALUES = {f"train/metric_{i}": 0.1 * i for i in range(10)}
Way = tuple[Callable[[int], object], Callable[[], object]]  # records a step; waits for all of them


@contextmanager
def server(directory: Path) -> Iterator[str]:
    """A tracking server as small as MLflow has it, on sqlite."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "mlflow", "server", "--port", port, "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{directory}/mlflow.db"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (directory / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        while not _answers(f"http://127.0.0.1:{port}/health"):
            time.sleep(0.1)  # between looks whether the server is up
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def ways(uri: str, directory: Path) -> dict[str, Way]:
    """How a step can be recorded, and how to wait for all that was."""
    import mlflow

    tracker = Tracker(directory, "train", RunIdentity("ours", "key", "benchmark", uri))
    connect(uri)  # MLflow's log levels
    mlflow.set_tracking_uri(uri)
    runs = {name: mlflow.MlflowClient().create_run("0").info.run_id for name in ("sync", "async")}
    pending = []

    def log(step: int) -> None:
        mlflow.log_metrics(VALUES, step=step, run_id=runs["sync"], synchronous=True)

    def log_async(step: int) -> None:
        kept = mlflow.log_metrics(VALUES, step=step, run_id=runs["async"], synchronous=False)
        pending.append(kept)

    def wait() -> None:
        for operation in pending:
            operation.wait()

    return {
        "Tracker.log": (lambda step: tracker.log(step, VALUES), lambda: tracker.finish(None, 600)),
        "mlflow.log_metrics": (log, lambda: None),
        "the same, asynchronous": (log_async, wait),
    }


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as scratch, server(Path(scratch)) as uri:
        found = ways(uri, Path(scratch, "spool"))
        costs: dict[str, list[float]] = {name: [] for name in found}
        for first in range(0, ROUNDS * STEPS, STEPS):
            for name, (log, _) in found.items():
                for step in range(first, first + STEPS):
                    costs[name].append(seconds(lambda log=log, step=step: log(step)))
        flushes = {name: seconds(wait) for name, (_, wait) in found.items()}
    ours = mean(costs["Tracker.log"])
    print(f"{'':<24}{'ms a step':>10}{'of ours':>10}{'worst, ms':>11}{'to the end, s':>15}")
    for name, values in costs.items():
        print(
            f"{name:<24}{1e3 * mean(values):>10.3f}{mean(values) / ours:>10,.0f}"
            f"{1e3 * max(values):>11.1f}{flushes[name]:>15.1f}"
        )


if __name__ == "__main__":
    main()
