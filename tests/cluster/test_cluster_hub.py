"""What Prometheus finds on a cluster, and how little training minds it."""

import os
import signal
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from local_cluster import TINY, Cluster, free_ports, wait_for
from prometheus_client.parser import text_string_to_metric_families

from ray_diffusion.cluster.board import Board
from ray_diffusion.cluster.hub import PORT, port_of
from ray_diffusion.cluster.metering import LaunchMeter, WorkerMeter, machine
from ray_diffusion.config import Config
from ray_diffusion.tracking.families import FAMILIES, PREFIX
from ray_diffusion.tracking.system import Sampler

GPUS = {"gpu_utilization_ratio", "gpu_memory_used_bytes"}  # of machines that have any
PROMISED = {name for name in FAMILIES if not name.startswith("sweep_")} - GPUS

Series = dict[str, dict[tuple[str, ...], float]]


def scraped(port: int) -> Series:
    """Values by family and by the values of its labels, sorted by their names."""
    found: Series = {}
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        for family in text_string_to_metric_families(answer.read().decode()):
            for sample in family.samples:
                name = sample.name.removeprefix(PREFIX).removesuffix("_count")
                labels = tuple(value for _, value in sorted(sample.labels.items()))
                found.setdefault(name, {})[labels] = sample.value
    return found


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.ray
def test_a_run_is_scraped_while_its_hub_is_killed_and_after_its_end(
    cluster: Cluster, tmp_path: Path
):
    [port] = free_ports(1)
    process = cluster.start(
        "ray_diffusion.train",
        *TINY,
        "cluster.num_workers=2",
        "training.total_images=96_000",
        "training.validate_every_images=96_000",
        f"tracking.metrics_port={port}",
        f"run.storage_url={tmp_path}",
    )

    def held() -> set[str]:
        assert process.poll() is None, process.communicate()
        return scraped(port).keys() & PROMISED

    wait_for(lambda: held() == PROMISED, "every family")
    hubs = cluster.processes(b"MetricsHub")  # and perhaps one of the tests before
    for hub in hubs:
        os.kill(hub, signal.SIGKILL)
    wait_for(lambda: not held(), "the end of the hub")
    wait_for(lambda: held() == PROMISED, "every family again, of another hub")
    assert not set(cluster.processes(b"MetricsHub")) & set(hubs)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "warning" not in err
    final = scraped(port)
    assert final["images_total"] == {("digits",): 96_000}
    assert final["world_size"] == {("digits",): 2}
    assert final["step_age_seconds"].keys() == {("0", "digits"), ("1", "digits")}
    assert final["step_seconds"][("digits",)] == 1_499
    assert final["checkpoint_seconds"][("digits",)] == 75
    assert sum(final["restarts_total"].values()) == 0
    assert final["tracking_backlog_points"] == {("digits",): 0}
    assert scraped(port)["checkpoint_age_seconds"] == final["checkpoint_age_seconds"]


@pytest.mark.ray
def test_a_taken_port_is_one_line_and_the_run_goes_on(cluster: Cluster, tmp_path: Path):
    address = cluster.dashboard.rpartition(":")[2]
    hubs = set(cluster.processes(b"MetricsHub"))
    done = cluster.run(
        "ray_diffusion.train",
        *TINY,
        f"tracking.metrics_port={address}",
        f"run.storage_url={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stderr.splitlines() if "warning" in line]
    assert line == (
        f"warning: no metrics for Prometheus: port {address}: address already in use; "
        "see tracking.metrics_port"
    )
    wait_for(
        lambda: set(cluster.processes(b"MetricsHub")) <= hubs, "the end of a hub that is of no use"
    )


@pytest.mark.parametrize(
    ("metrics_port", "address", "port"),
    [
        (None, None, 0),
        (None, "local", 0),
        (None, "head:6379", PORT),
        (None, "auto", PORT),
        (0, "head:6379", 0),
        (9999, None, 9999),
    ],
)
def test_without_a_port_only_a_running_cluster_has_a_hub(
    monkeypatch: pytest.MonkeyPatch, metrics_port: int | None, address: str | None, port: int
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert port_of(metrics_port) == port


def test_a_restart_is_counted_by_its_reason():
    board = Board()
    board.started(0, 2, "a")
    board.started(1, 2, "b")
    assert board.read()["restarts"] == 0
    board.started(1, 2, "b")
    board.started(0, 2, "a")
    board.expect("stall")
    board.started(0, 1, "a")
    board.started(1, 2, "b")  # before the first worker, which is the one that counts
    board.started(0, 2, "a")
    board.started(0, 2, "a")
    told = board.read()
    assert told["reasons"] == {"failure": 2, "stall": 1, "drain": 0, "resize": 1}
    assert told["restarts"] == 4


def test_a_worker_that_is_no_more_is_measured_no_more():
    board = Board()
    for rank in range(2):
        board.started(rank, 2, "a")
        board.measured(rank, {"step_age_seconds": 1.0})
    board.started(0, 1, "a")
    assert board.read()["measured"] == {0: {"step_age_seconds": 1.0}}


def test_the_driver_tells_of_all_and_never_goes_back_in_images():
    board, meter = Board(), LaunchMeter(use_gpu=False)
    board.started(0, 4, "a")
    board.post({"images_seen": 640})
    meter.report(board.read())
    board.post({"images_seen": 320})
    board.measured(3, {"step_age_seconds": 1.0})
    report = meter.report(board.read())
    own, *others = [snapshot for labels, snapshot in report if not labels]
    assert others == []
    assert own["images_total"] == 640
    assert own["world_size"] == 4
    assert own["gpu_hours_total"] == 0
    reasons = [labels["reason"] for labels, snapshot in report if "restarts_total" in snapshot]
    assert sorted(reasons) == ["drain", "failure", "resize", "stall"]  # at 0, for a rise to be seen
    assert ({"rank": "3"}, {"step_age_seconds": 1.0}) in report


def test_gpus_are_counted_while_workers_hold_them():
    board, clock = Board(), Clock()
    meter = LaunchMeter(True, clock)
    clock.now = 3_600.0  # until now the cluster looked for machines
    meter.report(board.read())
    board.started(0, 4, "a")
    clock.now += 1_800.0
    meter.report(board.read())
    board.started(0, 2, "a")
    clock.now += 1_800.0
    [own] = [snapshot for labels, snapshot in meter.report(board.read()) if not labels]
    assert own["gpu_hours_total"] == 4 / 2 + 2 / 2


class Posts:
    """What a board is posted."""

    def __init__(self) -> None:
        self.snapshots: list[dict] = []

    def measured(self, rank: int, snapshot: dict) -> None:
        self.snapshots.append(snapshot)


class Kept:
    """A tracker's counts."""

    backlog, errors, blocked_s = 3, 2, 0.25


def test_the_first_worker_measures_what_the_loop_logs():
    posts, config = Posts(), Config(data={"global_batch_size": 100}, ema={"warmup_steps": 10})
    meter = WorkerMeter(posts, 0, config)
    meter.follow(Kept())  # type: ignore[arg-type]
    for _ in range(5):
        meter.step()
    logged = {
        "train/loss": 0.5,
        "train/images_per_second": 250.0,
        "train/data_wait_fraction": 0.25,
        "train/nonfinite_steps": 2.0,
    }
    meter.logged(1_000, logged)
    meter.logged(1_000, {"val/score": 0.1})
    meter.post()
    told = posts.snapshots[-1]
    assert told["loss"] == 0.5
    assert told["data_wait_seconds_total"] == 0.25 * 500 / 250
    assert told["nonfinite_steps_total"] == 2
    assert told["ema_decay"] == (1 + 9) / (10 + 9)  # of the tenth step
    assert told["checkpoint_interval_seconds"] == config.training.checkpoint_every_images / 250
    assert told["step_seconds"]["buckets"]["+Inf"] == 4
    counts = [told[f"tracking_{n}"] for n in ("backlog_points", "errors_total", "seconds_total")]
    assert counts == [3, 2, 0.25]
    meter.step()
    meter.logged(1_100, logged)
    meter.post()
    assert posts.snapshots[-1]["data_wait_seconds_total"] == 0.25 * 600 / 250
    assert posts.snapshots[-1]["nonfinite_steps_total"] == 4


def test_a_checkpoint_is_measured_once_it_is_published(tmp_path: Path):
    (tmp_path / "part").mkdir()
    (tmp_path / "part/weights").write_bytes(bytes(1_000))
    (tmp_path / "state").write_bytes(bytes(24))
    posts = Posts()
    meter = WorkerMeter(posts, 0, Config())
    meter.follow(Kept())  # type: ignore[arg-type]
    meter.post()
    with suppress(OSError), meter.publishing(tmp_path):
        raise OSError
    meter.post()
    failed, before = posts.snapshots.pop(), posts.snapshots.pop()
    assert failed == before
    began = time.time()
    with meter.publishing(tmp_path):
        (tmp_path / "state").unlink()  # whoever publishes it may move it
    meter.post()
    [told] = posts.snapshots
    assert told["checkpoint_bytes"] == 1_024
    assert told["checkpoint_seconds"]["buckets"]["+Inf"] == 1
    assert told["checkpoint_age_seconds"] >= began


def test_a_worker_posts_at_most_once_a_second_and_those_behind_the_first_no_histograms():
    posts = Posts()
    meter = WorkerMeter(posts, 1, Config())
    began = time.monotonic()
    for _ in range(1_000):
        meter.step()
    assert len(posts.snapshots) <= 1 + (time.monotonic() - began)
    assert posts.snapshots[0].keys() >= {"step_age_seconds"}
    meter.post()
    assert "step_seconds" not in posts.snapshots[-1]


def test_a_sample_of_the_machine_is_shown_in_base_units_and_logged_once():
    posts, clock = Posts(), Clock()
    meter = WorkerMeter(posts, 1, Config(), Sampler(clock))
    meter.post()
    assert meter.system() == {}
    clock.now = 60.0
    meter.post()
    clock.now = 61.0
    meter.post()
    sample, told = meter.system(), posts.snapshots[-1]
    assert meter.system() == {}
    assert told["cpu_utilization_ratio"] == sample["system/cpu_utilization_percentage"] / 100
    assert told["memory_used_bytes"] == sample["system/system_memory_usage_megabytes"] * 1e6


def test_all_gpus_of_a_machine_are_shown_as_one():
    found = machine(
        {
            "system/cpu_utilization_percentage": 50.0,
            "system/system_memory_usage_megabytes": 2.0,
            "system/gpu_0_utilization_percentage": 100.0,
            "system/gpu_0_memory_usage_megabytes": 3.0,
            "system/gpu_0_memory_usage_percentage": 30.0,
            "system/gpu_1_utilization_percentage": 50.0,
            "system/gpu_1_memory_usage_megabytes": 4.0,
            "system/gpu_1_power_usage_watts": 700.0,
        }
    )
    assert found == {
        "cpu_utilization_ratio": 0.5,
        "memory_used_bytes": 2e6,
        "gpu_utilization_ratio": 0.75,
        "gpu_memory_used_bytes": 7e6,
    }
