"""Where a step's time goes, from made-up events whose sums are known and from a real run."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from toy import CPU

from ray_diffusion import config as configs
from ray_diffusion.config import Config
from ray_diffusion.training import profiling
from ray_diffusion.training.flops import flops_per_image
from ray_diffusion.training.profiling import arithmetic, profiled, seconds_per_step, shares
from ray_diffusion.training.step import train_step


class Span(NamedTuple):
    start: float
    end: float


class Event(NamedTuple):
    """``cpu`` and ``gpu`` are without what the event's children took."""

    name: str
    time_range: Span
    self_cpu_time_total: float
    self_device_time_total: float = 0.0


def event(name: str, start: float, end: float, cpu: float, gpu: float = 0.0) -> Event:
    return Event(name, Span(start, end), cpu, gpu)


STEP = [
    event("data", 0, 10, cpu=6),
    event("aten::index", 4, 8, cpu=4),
    event("forward", 10, 40, cpu=1),
    event("aten::mkldnn_convolution", 12, 37, cpu=25, gpu=60),
    event("aten::silu", 37, 41, cpu=4, gpu=5),
    event("aten::empty", 41, 42, cpu=1),  # between the ranges
    event("backward", 42, 92, cpu=2),
    event("aten::convolution_backward", 43, 83, cpu=40, gpu=100),
    event("aten::mm", 83, 91, cpu=8, gpu=20),
    event("average", 94, 98, cpu=4, gpu=6),
]


def test_time_on_a_cpu_is_that_of_each_range():
    phases, operators = shares(STEP, whole=100, on_gpu=False)
    assert phases == pytest.approx(
        {
            "data": 0.1,
            "forward": 0.3,
            "backward": 0.5,
            "sum": 0,
            "optimizer": 0,
            "average": 0.04,
            "rest": 0.06,
        }
    )
    assert operators == pytest.approx(
        {
            "convolution backward": 0.4,
            "convolution": 0.25,
            "matrix product backward": 0.08,
            "activation": 0.04,
            "empty": 0.01,
        }
    )
    assert list(operators.values()) == sorted(operators.values(), reverse=True)


def test_time_on_a_gpu_is_that_of_the_work_that_a_range_launched():
    phases, operators = shares(STEP, whole=250, on_gpu=True)
    assert phases["data"] == pytest.approx(10 / 250)  # the host's
    assert phases["forward"] == pytest.approx(65 / 250)
    assert phases["backward"] == pytest.approx(120 / 250)
    assert phases["rest"] == pytest.approx((250 - 10 - 65 - 120 - 6) / 250)
    assert operators["convolution backward"] == pytest.approx(100 / 250)
    assert "index" not in operators  # decoding is no operator of the step


def test_parts_of_a_batch_are_added_up():
    twice = [
        event(name, at + start, at + start + 5, cpu=5)
        for at in (0, 10)
        for name, start in (("forward", 0), ("backward", 5))
    ]
    phases, _ = shares(twice, whole=20, on_gpu=False)
    assert phases["forward"] == phases["backward"] == 0.5


def test_without_ranges_all_is_the_rest():
    phases, operators = shares([event("aten::mm", 0, 5, cpu=5)], whole=10, on_gpu=False)
    assert phases.pop("rest") == 1
    assert set(phases.values()) == {0}
    assert operators == {"matrix product": 0.5}


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("aten::addmm", "matrix product"),
        ("aten::bmm", "matrix product"),
        ("autograd::engine::evaluate_function: AddmmBackward0", "matrix product"),
        ("aten::cudnn_convolution", "convolution"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::native_group_norm", "group norm"),
        ("GroupNormSiLU", "group norm"),
        ("aten::native_layer_norm", "layer norm"),
        ("aten::gelu", "activation"),
        ("aten::_to_copy", "copying"),
        ("aten::_fused_adamw_", "AdamW"),
        ("aten::_foreach_lerp_", "foreach_lerp"),
    ],
)
def test_operators_have_names_for_people(name: str, family: str):
    _, operators = shares([event(name, 0, 1, cpu=1)], whole=1, on_gpu=False)
    assert operators == {family: 1}


@pytest.fixture
def stored(run: Config, tmp_path: Path) -> Config:
    return configs.override(run, {"run.storage_url": str(tmp_path / "runs")})


def test_a_profile_says_where_time_goes_and_changes_nothing(stored: Config, tmp_path: Path):
    found = profiled(stored, CPU)
    step, operators, compute = found.text.splitlines()
    assert re.fullmatch(r"step       \d+ ms: (data \d+%, )?forward \d+%, backward \d+%, .*", step)
    assert re.fullmatch(r"operators  (.+ \d+%, ){4}.+ \d+%", operators)
    assert re.fullmatch(
        r"compute    [\d.e-]+ of [\d.e-]+ TFLOP/s \(fp32\): MFU \d+%(; next: .+)?", compute
    )
    events = json.loads(gzip.decompress(found.trace))["traceEvents"]
    counts = [sum(e.get("name") == name for e in events) for name in profiling.RANGES]
    assert counts == 6 * [profiling.PROFILED]
    assert not (tmp_path / "runs").exists()


def test_utilisation_is_of_the_steps_without_the_profiler(
    stored: Config, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(profiling, "_timed", lambda steps: (0.5, 32))
    step, _, compute = profiled(stored, CPU).text.splitlines()
    assert step.startswith("step       500 ms: ")
    assert float(compute.split()[1]) == pytest.approx(flops_per_image(stored) * 64 / 1e12, rel=0.05)


def test_a_rehearsal_takes_the_steps_of_one_worker(stored: Config, monkeypatch: pytest.MonkeyPatch):
    sizes = []

    def noted(state, batch, task):
        sizes.append(len(batch.images))
        return train_step(state, batch, task)

    monkeypatch.setattr(profiling, "train_step", noted)
    many = configs.override(stored, {"cluster.num_workers": [1, 3], "training.micro_batch_size": 4})
    assert seconds_per_step(many, CPU) > 0
    assert sizes == (profiling.WARM_UP + profiling.TIMED) * [11]


def test_seconds_are_those_of_the_steps_after_the_warm_up(
    stored: Config, monkeypatch: pytest.MonkeyPatch
):
    durations = iter([100.0, 10.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    now = 0.0

    def slow(state, batch, task):
        nonlocal now
        now += next(durations)
        return train_step(state, batch, task)

    monkeypatch.setattr(profiling, "train_step", slow)
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: now)
    assert seconds_per_step(stored, CPU) == 3.0


@pytest.fixture
def peaks(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], None]:
    def are(fp32: float, bf16: float) -> None:
        found = {"fp32": fp32, "bf16": bf16}
        monkeypatch.setattr(profiling, "matmul_tflops", lambda device, name: found[name])

    return are


def test_utilisation_is_the_counted_share_of_the_peak(stored: Config, peaks):
    peaks(1.0, 1.0)
    flops = flops_per_image(stored)
    known = configs.override(stored, {"cluster.peak_tflops": 4 * 1000 * flops / 1e12})
    found = arithmetic(known, CPU, images_per_second=1000, waited=0)
    assert found.endswith("TFLOP/s (fp32): MFU 25%")
    assert float(found.split()[0]) == pytest.approx(1000 * flops / 1e12, rel=0.05)


@pytest.mark.parametrize(
    ("precision", "fp32", "bf16", "waited", "said"),
    [
        ("fp32", 1.0, 3.0, 0.0, "; next: training.precision=bf16, 3.0 times as fast at products"),
        ("fp32", 1.0, 1.2, 0.0, ""),
        ("bf16", 1.0, 3.0, 0.0, ""),
        ("fp32", 1.0, 3.0, 0.3, "; next: data.workers=1 reads while the step computes"),
        ("bf16", 1.0, 3.0, 0.3, "; next: data.workers=1 reads while the step computes"),
    ],
)
def test_what_would_help_is_said_where_it_shows(
    stored: Config, peaks, precision: str, fp32: float, bf16: float, waited: float, said: str
):
    peaks(fp32, bf16)
    keys = {"cluster.peak_tflops": 1.0, "training.precision": precision}
    found = arithmetic(configs.override(stored, keys), CPU, 1000, waited)
    assert found.partition("%")[2] == said
