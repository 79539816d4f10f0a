"""What is asked of a worker before a run starts, without a cluster around it."""

import gzip
import json
import os
from pathlib import Path

import pytest
import torch
from tiny_config import TINY

from ray_diffusion import config as configs
from ray_diffusion.cluster import rehearsal
from ray_diffusion.cluster.plan import Plan, prepare
from ray_diffusion.config import Config

SECRET = "REHEARSAL_SECRET"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def plan(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    keys = {"run.storage_url": str(tmp_path / "runs"), "cluster.cpus_per_worker": 1}
    return prepare(configs.override(Config(), TINY | keys))


@pytest.fixture
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of a cluster, this process."""
    monkeypatch.setattr(rehearsal, "fitted_to_cluster", lambda config: config)
    monkeypatch.setattr(
        rehearsal, "_on_the_cluster", lambda work, config: rehearsal._as_worker(work, config, {})
    )


def test_work_is_done_as_a_worker_would(plan: Plan):
    def work(config: Config, device: torch.device) -> tuple[str, str, int]:
        return os.environ[SECRET], str(device), torch.get_num_threads()

    config = configs.override(plan.config, {"cluster.cpus_per_worker": 2})
    try:
        assert rehearsal._as_worker(work, config, {SECRET: "told"}) == ("told", "cpu", 2)
    finally:
        torch.set_num_threads(1)
    assert SECRET not in os.environ


@pytest.mark.usefixtures("_here")
def test_the_expected_time_is_of_all_steps(plan: Plan, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rehearsal, "seconds_per_step", lambda config, device: 0.5)
    fits, expected = rehearsal.rehearse(plan).splitlines()
    assert fits == "cluster    fits, 1 CPUs per worker"
    assert expected.startswith("expected   4:10 for 500 steps")
    assert not plan.run.names()


@pytest.mark.usefixtures("_here")
def test_a_profile_leaves_a_trace_in_the_run_and_nothing_else(plan: Plan):
    told = rehearsal.profile(plan)
    assert plan.run.names() == ["trace.json.gz"]
    content = plan.run.read("trace.json.gz")
    assert content is not None
    assert json.loads(gzip.decompress(content))["traceEvents"]
    *_, last = told.splitlines()
    assert last == f"trace      {plan.run.url}/trace.json.gz, for ui.perfetto.dev"
    assert len(told.splitlines()) == 4
