"""Values on their way to Prometheus, read back from what a scrape gets."""

import sys
import threading
import urllib.request
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from ray_diffusion.tracking.exporter import KEEP_S, Exporter
from ray_diffusion.tracking.families import FAMILIES, PREFIX, ROWS
from ray_diffusion.tracking.metrics import Meter, Report, RunState, expose

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Series:
    """All samples by their names without the prefix and their labels; none comes twice."""
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    found = {(s.name.removeprefix(PREFIX), frozenset(s.labels.items())): s.value for s in samples}
    assert len(found) == len(samples)
    assert all(s.name.startswith(PREFIX) for s in samples)
    return found


def text_of(runs: dict[str, RunState], now: float) -> str:
    class Once(Collector):
        def collect(self):  # type: ignore[no-untyped-def]
            return expose(runs, now)

    registry = CollectorRegistry()
    registry.register(Once())
    return generate_latest(registry).decode()


def shown(report: Report, now: float = 0.0, ended_at: float | None = None) -> Series:
    return parsed(text_of({"a": RunState(report, ended_at)}, now))


def of(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(({"run": "a"} | labels).items())


def test_known_values_give_this_text():
    meter = Meter()
    meter.set("loss", 0.25)
    meter.add("data_wait_seconds_total", 1.5)
    meter.add("data_wait_seconds_total", 2.0)
    report = [({"rank": "0"}, meter.snapshot()), ({"reason": "stall"}, {"restarts_total": 2})]
    assert text_of({"a": RunState(report, None)}, 0.0) == (
        "# HELP ray_diffusion_loss Mean training loss since the point before.\n"
        "# TYPE ray_diffusion_loss gauge\n"
        'ray_diffusion_loss{run="a"} 0.25\n'
        "# HELP ray_diffusion_data_wait_seconds_total "
        "Seconds that the first worker waited for data.\n"
        "# TYPE ray_diffusion_data_wait_seconds_total counter\n"
        'ray_diffusion_data_wait_seconds_total{run="a"} 3.5\n'
        "# HELP ray_diffusion_restarts_total "
        "Restarts of the workers by reason: failure, stall, drain or resize.\n"
        "# TYPE ray_diffusion_restarts_total counter\n"
        'ray_diffusion_restarts_total{reason="stall",run="a"} 2.0\n'
    )


def test_a_histogram_counts_up_to_each_bound():
    meter = Meter()
    for seconds in (0.004, 0.01, 0.011, 7.0, 1_000.0):
        meter.observe("step_seconds", seconds)
    series = shown([({"rank": "0"}, meter.snapshot())])
    expected = {"0.005": 1, "0.01": 2, "0.02": 3, "5.0": 3, "10.0": 4, "100.0": 4, "+Inf": 5}
    for bound, count in expected.items():
        assert series[of("step_seconds_bucket", le=bound)] == count
    assert series[of("step_seconds_count")] == 5
    assert series[of("step_seconds_sum")] == pytest.approx(1_007.025)


@given(st.lists(st.floats(1e-4, 2_000), min_size=1))
def test_of_any_observations_a_bucket_holds_those_that_are_not_above_its_bound(
    observed: list[float],
):
    meter = Meter()
    for value in observed:
        meter.observe("checkpoint_seconds", value)
    told = meter.snapshot()["checkpoint_seconds"]
    assert isinstance(told, dict)
    for bound, count in told["buckets"].items():
        assert count == sum(value <= float(bound) for value in observed)
    assert told["sum"] == pytest.approx(sum(observed))


def test_an_age_is_counted_when_it_is_read_and_stands_still_at_the_end():
    report = [({"rank": "1"}, {"step_age_seconds": 100.0})]
    age = of("step_age_seconds", rank="1")
    assert shown(report, now=107.0)[age] == 7
    assert shown(report, now=200.0, ended_at=109.0)[age] == 9
    assert shown(report, now=99.0)[age] == 0  # clocks of two machines differ a little


def test_workers_are_told_apart_by_rank_and_runs_by_name():
    report = [({"rank": str(rank)}, {"cpu_utilization_ratio": rank / 4}) for rank in range(3)]
    series = parsed(text_of({run: RunState(report, None) for run in "ab"}, 0.0))
    assert series == {
        of("cpu_utilization_ratio", run=run, rank=str(rank)): rank / 4
        for run in "ab"
        for rank in range(3)
    }


def test_what_a_newer_worker_measures_is_passed_over():
    report = [
        ({"rank": "0", "zone": "b"}, {"flux": 1.0, "world_size": 2}),
        ({}, {"restarts_total": 1}),
    ]
    assert shown(report) == {of("world_size"): 2}


def test_a_name_without_a_family_cannot_be_measured():
    for measure in (Meter().set, Meter().add, Meter().observe):
        with pytest.raises(KeyError):
            measure("flux", 1.0)


def test_a_snapshot_does_not_change_when_measuring_goes_on():
    meter = Meter()
    meter.observe("step_seconds", 1.0)
    before = meter.snapshot()
    meter.observe("step_seconds", 1.0)
    assert before != meter.snapshot()
    assert before["step_seconds"]["buckets"]["+Inf"] == 1  # type: ignore[index]


def test_threads_may_count_together():
    meter, interval = Meter(), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [
        threading.Thread(target=lambda: [meter.observe("step_seconds", 1.0) for _ in range(20_000)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    told = meter.snapshot()["step_seconds"]
    assert told["buckets"]["+Inf"] == told["sum"] == 80_000  # type: ignore[index]


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_families_follow_the_conventions_of_prometheus(family):
    assert family.name.endswith("_total") == (family.kind == "counter")
    assert (family.kind == "histogram") == bool(family.buckets)
    assert all(a < b for a, b in pairwise(family.buckets))
    assert set(family.labels) - {"rank", "reason", "state"} == {"run"}
    assert family.help.endswith(".")
    assert all(unit not in family.name or unit in family.help.lower() for unit in ("seconds",))


def test_no_two_families_have_one_name():
    assert len(FAMILIES) == sum(map(len, ROWS.values()))


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def scrape(exporter: Exporter) -> Series:
    url = f"http://127.0.0.1:{exporter.port}/metrics"
    with urllib.request.urlopen(url, timeout=30) as answer:
        return parsed(answer.read().decode())


def test_a_scrape_gets_the_newest_report_of_each_run(clock: Clock):
    exporter = Exporter(0, clock)
    assert scrape(exporter) == {}
    assert exporter.report("a", [({}, {"images_total": 64, "loss": 0.5})]) is None
    exporter.report("b", [({}, {"images_total": 1})])
    exporter.report("a", [({}, {"images_total": 128})])
    assert scrape(exporter) == {of("images_total"): 128, of("images_total", run="b"): 1}
    exporter.close()


def test_final_values_are_kept_for_a_while_and_then_removed(clock: Clock):
    exporter = Exporter(0, clock)
    exporter.report("a", [({}, {"images_total": 64, "checkpoint_age_seconds": 990})], finished=True)
    clock.now += KEEP_S
    assert scrape(exporter) == {of("images_total"): 64, of("checkpoint_age_seconds"): 10}
    assert not exporter.idle
    clock.now += 1
    assert scrape(exporter) == {}
    assert exporter.idle
    exporter.close()


def test_a_run_that_fell_silent_is_removed_and_another_stays(clock: Clock):
    exporter = Exporter(0, clock)
    exporter.report("a", [({}, {"checkpoint_age_seconds": 990})])
    clock.now += KEEP_S
    exporter.report("b", [({}, {"world_size": 1})])
    assert scrape(exporter)[of("checkpoint_age_seconds")] == 10 + KEEP_S  # no end of it was told
    clock.now += 1
    assert scrape(exporter) == {of("world_size", run="b"): 1}
    assert not exporter.idle
    exporter.close()


def test_a_run_that_goes_on_after_its_end_ages_again(clock: Clock):
    exporter = Exporter(0, clock)
    exporter.report("a", [({}, {"checkpoint_age_seconds": 1_000})], finished=True)
    exporter.report("a", [({}, {"checkpoint_age_seconds": 1_000})])
    clock.now += 5
    assert scrape(exporter) == {of("checkpoint_age_seconds"): 5}
    exporter.close()


def test_a_taken_port_is_a_complaint_and_no_error(clock: Clock):
    first = Exporter(0, clock)
    assert first.port is not None
    second = Exporter(first.port, clock)
    assert second.port is None
    assert second.report("a", []) == f"port {first.port}: address already in use"
    first.close()


def test_a_port_that_is_given_back_can_be_taken_at_once(clock: Clock):
    first = Exporter(0, clock)
    scrape(first)  # leaves a connection behind, which the kernel keeps for a minute
    assert first.port is not None
    first.close()
    again = Exporter(first.port, clock)
    assert again.complaint is None
    again.close()
