"""Whatever MLflow does, training goes on, and in the end each point is there once."""

import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chaos_proxy import ChaosProxy, Faults
from mlflow.entities import ViewType
from mlflow_server import Server, until
from tiny_config import RESOLVED, TINY
from toy_source import toy_source

from ray_diffusion import config, errors, sync
from ray_diffusion.config import Config
from ray_diffusion.data.packing.pack import pack
from ray_diffusion.data.packing.recipe import Recipe
from ray_diffusion.tracking.client import connect
from ray_diffusion.tracking.curve import read_metrics
from ray_diffusion.tracking.identity import RunIdentity
from ray_diffusion.tracking.tracker import Tracker

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::PendingDeprecationWarning", "ignore::FutureWarning"
)

TRAINER = Path(__file__).with_name("outage_trainer.py")
BATCH, STEPS = 8, 100
EARLY, MIDDLE, LATE = (BATCH * step for step in (30, 40, 80))
WAIT_S = 120.0  # a loaded machine takes its time


@pytest.fixture(scope="module")
def proxy(server: Server) -> Iterator[ChaosProxy]:
    with ChaosProxy(server.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dataset")
    images = np.random.default_rng(0).integers(0, 256, (100, 8, 8), np.uint8)
    pack(toy_source("noise", "abcdefghij", images), Recipe(), str(directory))
    return directory


class Run:
    """A run that was launched while MLflow was away: its directory, and what became of it."""

    def __init__(self, directory: Path, configured: Config, cache: Path) -> None:
        self.url, self.key = str(directory), secrets.token_hex(8)
        self.uri = str(configured.tracking.uri)
        self.environment = os.environ | {
            "XDG_CACHE_HOME": str(cache),
            "OMP_NUM_THREADS": "1",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "1",  # a test need not wait for five seconds
        }
        directory.mkdir(parents=True)
        self.directory = directory
        (directory / "config.yaml").write_text(config.dump(configured))
        origin = {"run_key": self.key, "mlflow_run_id": None, "git.commit": "abc"}
        (directory / "run.json").write_text(json.dumps(origin))

    @contextmanager
    def training(self, *gates: int) -> Iterator["Trainer"]:
        command = [sys.executable, str(TRAINER), self.url, *map(str, gates)]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        with subprocess.Popen(command, env=self.environment, text=True, **pipes) as process:
            try:
                yield Trainer(process)
            finally:
                process.kill()

    def shipped(self) -> bool:
        """Whether MLflow has all that is logged so far."""
        spool = self.directory / "spool" / "train.jsonl"
        acked = spool.with_suffix(".acked")
        return acked.exists() and json.loads(acked.read_text())["offset"] == spool.stat().st_size

    @property
    def logged(self) -> dict[str, list[tuple[int, float]]]:
        """What the spool holds; its names and steps are checked against the configuration."""
        points = read_metrics(self.directory / "spool" / "train.jsonl")
        steps = [BATCH * (i + 1) for i in range(STEPS)]
        assert [step for step, _ in points["train/loss"]] == steps
        return points

    def assert_complete(self) -> None:
        """One run, with its lineage, and each point of the spool there once."""
        client = connect(self.uri)
        query = f"tags.`ray_diffusion.run_key` = '{self.key}'"
        [run] = client.search_runs(["0", *_experiments(client)], query, ViewType.ALL)
        assert run.data.tags["git.commit"] == "abc"
        assert run.data.params["run.name"] == self.directory.name
        assert run.info.status == "FINISHED"
        logged = self.logged
        assert set(run.data.metrics) == set(logged)
        for name, points in logged.items():
            history = client.get_metric_history(run.info.run_id, name)
            assert sorted((point.step, point.value) for point in history) == points, name


def _experiments(client: Any) -> list[str]:
    return [experiment.experiment_id for experiment in client.search_experiments()]


class Trainer:
    """A trainer's process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def told(self) -> dict[str, float]:
        """What it says at its next gate, or at its end."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        return json.loads(line)

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def assert_ends_well(self, shipped: bool, words: int = 2) -> None:
        """The end comes, in spite of all, and with few words."""
        output, complaints = self.process.communicate()
        assert self.process.returncode == 0, complaints
        assert json.loads(output) == {"shipped": shipped}
        lines = complaints.splitlines()
        assert 0 < len(lines) <= words, complaints
        assert "nothing is lost" in lines[0]


@pytest.fixture
def run(proxy: ChaosProxy, dataset: Path, tmp_path: Path) -> Run:
    keys = {
        "data.dataset_url": str(dataset),
        "data.global_batch_size": BATCH,
        **TINY,
        **RESOLVED,
        "run.name": "digits",
        "run.storage_url": str(tmp_path / "runs"),
        "sampler.num_inference_steps": 2,
        "tracking.uri": proxy.url,
        "training.total_images": STEPS * BATCH,
        "training.log_every_images": BATCH,
        "training.validate_every_images": 50 * BATCH,
        "training.checkpoint_every_images": 50 * BATCH,
    }
    configured = config.override(Config(), keys)
    return Run(tmp_path / "runs" / "digits", configured, tmp_path / "cache")


def met(proxy: ChaosProxy) -> int:
    """Requests so far."""
    return sum(proxy.met.values())


Fault = Callable[[Server, ChaosProxy], AbstractContextManager[None]]


@contextmanager
def answering(proxy: ChaosProxy, faults: Faults) -> Iterator[None]:
    proxy.faults = faults
    try:
        yield
    finally:
        proxy.faults = Faults()


FAULTS: dict[str, Fault] = {
    "frozen": lambda server, proxy: server.frozen(),
    "not allowed": lambda server, proxy: answering(proxy, Faults(host="mlflow.example")),  # 403
    "500": lambda server, proxy: answering(proxy, Faults(unavailable=1, status=500, only="")),
    "slow": lambda server, proxy: answering(proxy, Faults(latency_s=5)),
    "database locked": lambda server, proxy: server.locked(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_outage_stops_slows_and_thins_nothing(
    fault: str,
    server: Server,
    proxy: ChaosProxy,
    run: Run,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with run.training(EARLY, MIDDLE, LATE) as trainer:
        trainer.told()
        until(run.shipped, WAIT_S)
        with FAULTS[fault](server, proxy):
            requests = met(proxy)
            trainer.go_on()
            before = trainer.told()
            until(lambda: met(proxy) > requests, WAIT_S)  # the shipper is in it, and may hang
            began = time.monotonic()
            trainer.go_on()
            after = trainer.told()
            until(lambda: met(proxy) >= requests + 2, WAIT_S)
            lasted_s = time.monotonic() - began
            assert after["backlog"] >= 40
            assert after["blocked_s"] - before["blocked_s"] < lasted_s / 4
            trainer.go_on()
            trainer.assert_ends_well(shipped=False)
    assert errors.run(sync.main, [run.url]) == 0
    assert "points shipped" in capsys.readouterr().out
    run.assert_complete()


def test_a_server_killed_before_the_start_in_the_middle_and_at_the_end_costs_no_point(
    server: Server, proxy: ChaosProxy, run: Run
) -> None:
    with run.training(EARLY, LATE) as trainer:
        with server.killed():
            before = trainer.told()
            assert before["backlog"] > 0
            requests = met(proxy)
            until(lambda: met(proxy) > requests, WAIT_S)
        until(run.shipped, WAIT_S)  # the run was made late
        with server.killed():
            trainer.go_on()
            trainer.told()
            trainer.go_on()
            trainer.assert_ends_well(shipped=False, words=3)
    assert errors.run(sync.main, [run.url]) == 0
    run.assert_complete()


def test_what_an_outage_in_the_middle_held_up_is_shipped_by_the_training_itself(
    server: Server, proxy: ChaosProxy, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with run.training(EARLY, LATE) as trainer:
        trainer.told()
        until(run.shipped, WAIT_S)
        with server.frozen():
            requests = met(proxy)
            trainer.go_on()
            trainer.told()
            until(lambda: met(proxy) >= requests + 2, WAIT_S)  # the first was given up
        until(run.shipped, WAIT_S)
        trainer.go_on()
        trainer.assert_ends_well(shipped=True)
    run.assert_complete()
    assert errors.run(sync.main, [run.url]) == 0
    assert capsys.readouterr().out == f"{run.url}: nothing was left\n"


def test_a_trainer_killed_three_times_in_an_outage_leaves_each_point_once(
    server: Server, proxy: ChaosProxy, run: Run
) -> None:
    kills = sorted(random.Random(6).sample(range(5, STEPS - 5), 3))
    with server.frozen():
        for step in kills:
            with run.training(step * BATCH) as trainer:
                trainer.told()
                trainer.process.send_signal(signal.SIGKILL)
    with run.training() as trainer:
        assert trainer.process.communicate()[1] == ""
    assert errors.run(sync.main, [run.url]) == 0
    run.assert_complete()


def test_a_run_whose_making_is_answered_too_late_is_made_once(
    server: Server, tmp_path: Path
) -> None:
    # The server goes on with a request that the client has given up; the next try finds no run yet.
    identity = RunIdentity("digits", secrets.token_hex(8), "Default", server.uri)
    with Tracker(tmp_path, "train", identity, period_s=0.05) as tracker:
        with server.locked("IMMEDIATE"):  # it can be searched for, but not be made
            tracker.log(1, {"train/loss": 0.5})
            until(lambda: tracker.errors >= 2)
        assert tracker.finish("FINISHED", deadline_s=60)
    query = f"tags.`ray_diffusion.run_key` = '{identity.run_key}'"
    [run] = connect(server.uri).search_runs(["0"], query)
    assert run.data.metrics == {"train/loss": 0.5}
