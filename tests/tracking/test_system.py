"""The machine under a run, in MLflow's words."""

import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor

from ray_diffusion.tracking.system import PERIOD_S, Sampler

# A driver of three GPUs: the first does not tell its power, the third is gone.
DRIVER = """
from types import SimpleNamespace as Values

class NVMLError(Exception): pass

def nvmlInit(): pass

def nvmlDeviceGetCount(): return 3

def nvmlDeviceGetHandleByIndex(i):
    if i == 2: raise NVMLError("lost")
    return i

def nvmlDeviceGetUtilizationRates(gpu): return Values(gpu=70 + gpu, memory=1)

def nvmlDeviceGetMemoryInfo(gpu): return Values(used=20 * 10**9, total=80 * 10**9)

def nvmlDeviceGetPowerUsage(gpu):
    if gpu == 0: raise NVMLError("not supported")
    return 350_000

def nvmlDeviceGetEnforcedPowerLimit(gpu): return 700_000
"""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def _no_driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No driver of this machine's own."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    yield
    sys.modules.pop("pynvml", None)


def drive(source: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / "pynvml.py").write_text(source)
    monkeypatch.delitem(sys.modules, "pynvml")
    monkeypatch.syspath_prepend(directory)


def sampled(clock: Clock) -> dict[str, float]:
    sampler = Sampler(clock)
    clock.now += PERIOD_S
    return sampler.sample()


def test_a_sample_has_the_names_under_which_mlflow_charts_them(clock: Clock):
    monitor = CPUMonitor()
    monitor.collect_metrics()
    theirs = {f"system/{name}" for name in monitor.aggregate_metrics()}
    assert set(sampled(clock)) == theirs | {"system/process_memory_usage_megabytes"}


def test_memory_is_told_in_megabytes_and_shares_in_percent(clock: Clock):
    sampler, megabytes = Sampler(clock), psutil.virtual_memory().total / 1e6
    sum(range(10**7))  # keeps a processor busy for a moment
    clock.now += PERIOD_S
    found = sampler.sample()
    assert 0 < found["system/cpu_utilization_percentage"] <= 100
    assert 0 < found["system/process_memory_usage_megabytes"] < megabytes
    assert found["system/system_memory_usage_percentage"] == pytest.approx(
        100 * found["system/system_memory_usage_megabytes"] / megabytes
    )


def test_the_memory_of_the_process_is_its_own(clock: Clock):
    before = sampled(clock)["system/process_memory_usage_megabytes"]
    held = bytearray(b"x") * 300_000_000
    after = sampled(clock)["system/process_memory_usage_megabytes"]
    assert after - before == pytest.approx(len(held) / 1e6, rel=0.2)


def test_however_often_it_is_asked_it_looks_after_a_second_and_then_every_ten(clock: Clock):
    sampler, looked_at = Sampler(clock), []
    for clock.now in range(36):
        if sampler.sample():
            looked_at.append(clock.now)
    assert looked_at == [1, 11, 21, 31]


def test_gpus_are_told_as_far_as_their_driver_answers(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    drive(DRIVER, tmp_path, monkeypatch)
    found = {name[11:]: v for name, v in sampled(clock).items() if name.startswith("system/gpu_")}
    assert found == {
        "0_utilization_percentage": 70,
        "0_memory_usage_megabytes": 20_000,
        "0_memory_usage_percentage": 25,
        "1_utilization_percentage": 71,
        "1_memory_usage_megabytes": 20_000,
        "1_memory_usage_percentage": 25,
        "1_power_usage_watts": 350,
        "1_power_usage_percentage": 50,
    }


@pytest.mark.parametrize(
    "source",
    [
        "raise OSError('no such library')",
        "class NVMLError(Exception): pass\ndef nvmlInit(): raise NVMLError('no driver')",
        DRIVER + "\ndef nvmlDeviceGetCount(): raise NVMLError('driver went away')",
    ],
    ids=["broken module", "no driver", "driver went away"],
)
def test_without_a_driver_that_answers_nothing_is_said_of_gpus(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
):
    alone = set(sampled(clock))
    drive(source, tmp_path, monkeypatch)
    assert set(sampled(clock)) == alone
