"""Where the time of a step goes: a few real steps, timed, or under torch's profiler."""

import re
import tempfile
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch.profiler import profile, record_function

from ray_diffusion.config import Config, override
from ray_diffusion.data.stream import Stream, batches
from ray_diffusion.data.training_set import open_split, open_training_set
from ray_diffusion.training.flops import flops_per_image, matmul_tflops, peak_tflops
from ray_diffusion.training.state import initial_state
from ray_diffusion.training.step import train_step
from ray_diffusion.training.tasks import task_of

WARM_UP, TIMED, PROFILED = 2, 5, 3  # steps
RANGES = ("data", "forward", "backward", "sum", "optimizer", "average")  # as the step names them
FAMILIES = {  # what names of operators and of their gradients have in common, in lower case
    "convolution": "convolution",
    "attention|scaled_?dot_?product": "attention",
    "group_?norm": "group norm",
    "layer_?norm": "layer norm",
    "::(badd|add|b)?mm$|mmbackward": "matrix product",
    "silu|gelu|relu": "activation",
    "copy|clone|contiguous|::cat$": "copying",
    "adam": "AdamW",
}
MOST_OPERATORS = 5
LEAST_SHARE = 0.01  # of the step, to be named
MUCH_DATA = 0.1
MUCH_FASTER = 1.5


class Profile(NamedTuple):
    """What profiling a run found.

    Attributes:
        text: Lines for a person: the step's shares, the operators', the arithmetic.
        trace: A Chrome trace, gzipped JSON.
    """

    text: str
    trace: bytes


class Event(Protocol):
    """What is read of one of the profiler's events; times in microseconds."""

    name: str
    time_range: "Interval"
    self_cpu_time_total: float
    self_device_time_total: float


class Interval(Protocol):
    """When an event began and ended."""

    start: float
    end: float


def _steps(config: Config, device: torch.device) -> Generator[int]:
    """Real steps of a worker that change nothing outside: their data, and no sum over workers.

    Yields:
        How many images a step has trained on, once the device is done with it.
    """
    share = -(-config.data.global_batch_size // config.cluster.most_workers)
    alone = {"data.global_batch_size": share, "cluster.num_workers": 1}
    config = override(config, alone)
    data = config.data
    stream = Stream(open_training_set(data), 0, 0, share, mirror=data.horizontal_flip)
    state = initial_state(config, device)
    with (
        closing(open_split(data, "val")) as val,
        closing(batches(stream, data.workers, device.type == "cuda")) as found,
    ):
        task = task_of(config, device, val)
        while True:
            with record_function("data"):
                batch = next(found)
            train_step(state, batch, task).loss.item()  # waits for the device
            yield share


def _timed(steps: Iterator[int]) -> tuple[float, int]:
    """Seconds and images of a step, the mean of a few."""
    sum(islice(steps, WARM_UP))
    started = time.perf_counter()
    images = sum(islice(steps, TIMED))
    return (time.perf_counter() - started) / TIMED, images // TIMED


def seconds_per_step(config: Config, device: torch.device) -> float:
    """Time of a step of one of the run's workers, with its data and without the sum over workers.

    Args:
        config: The run's resolved configuration. Nothing of the run is read or changed.
        device: Where to train.

    Returns:
        Seconds.
    """
    with closing(_steps(config, device)) as steps:
        return _timed(steps)[0]


def profiled(config: Config, device: torch.device) -> Profile:
    """Let one of the run's workers take a few steps under the profiler.

    Args:
        config: The run's resolved configuration. Nothing of the run is read or changed.
        device: Where to train.

    Returns:
        Where the time went. Times are of steps without the profiler, shares of steps with it.
    """
    with closing(_steps(config, device)) as steps, tempfile.TemporaryDirectory() as scratch:
        seconds, images = _timed(steps)
        with profile() as profiler:
            started = time.perf_counter()
            sum(islice(steps, PROFILED))
            whole = time.perf_counter() - started
        trace = Path(scratch, "trace.json.gz")
        profiler.export_chrome_trace(str(trace))
        content = trace.read_bytes()
    on_host = [e for e in profiler.events() or [] if e.device_type.name == "CPU"]
    phases, operators = shares(on_host, whole * 1e6, on_gpu=device.type == "cuda")
    text = (
        f"{'step':<10} {seconds * 1e3:,.0f} ms: {_listed(phases)}\n"
        f"{'operators':<10} {_listed(operators)}\n"
        f"{'compute':<10} {arithmetic(config, device, images / seconds, phases['data'])}"
    )
    return Profile(text, content)


def shares(
    events: Iterable[Event], whole: float, on_gpu: bool
) -> tuple[dict[str, float], dict[str, float]]:
    """Where time went.

    Time on a GPU belongs to the range in which its work was launched, from whatever thread.

    Args:
        events: What the profiler saw on the host.
        whole: The time that was profiled, in microseconds.
        on_gpu: Whether the network ran on a GPU: then only waiting for data is the host's time.

    Returns:
        Shares of the whole: of each range and of the ``rest``, in the order of a step; and of the
        families of operators that took most.
    """
    events = list(events)
    ranges = sorted(
        (e.time_range.start, e.time_range.end, e.name) for e in events if e.name in RANGES
    )
    phases, operators = dict.fromkeys((*RANGES, "rest"), 0.0), defaultdict[str, float](float)
    for event in events:
        at = bisect_right(ranges, event.time_range.start, key=lambda found: found[0]) - 1
        within = ranges[at][2] if at >= 0 and event.time_range.start < ranges[at][1] else "rest"
        of_host = not on_gpu or within == "data"
        time = event.self_cpu_time_total if of_host else event.self_device_time_total
        phases[within] += time / whole
        family = _family(event.name)
        if family is not None and within != "data":
            operators[f"{family} backward" if within == "backward" else family] += time / whole
    phases["rest"] = max(0.0, 1 - sum(phases[name] for name in RANGES))
    most = sorted(operators.items(), key=lambda found: -found[1])[:MOST_OPERATORS]
    return phases, dict(most)


def _family(name: str) -> str | None:
    """A person's name for an operator; None for what is none."""
    for pattern, family in FAMILIES.items():
        if re.search(pattern, name.lower()):
            return family
    return name.removeprefix("aten::").strip("_") if name.startswith("aten::") else None


def _listed(found: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in found.items() if share >= LEAST_SHARE)


def arithmetic(
    config: Config, device: torch.device, images_per_second: float, waited: float
) -> str:
    """What a worker reaches of its device, and what would raise it, if that shows.

    Args:
        config: The run's resolved configuration.
        device: Where it trains.
        images_per_second: Of this worker.
        waited: Share of the time that went into reading data.

    Returns:
        A line.
    """
    precision, peak = config.training.precision, peak_tflops(config, device)
    reached = flops_per_image(config) * images_per_second / 1e12
    found = f"{reached:.2g} of {peak:.2g} TFLOP/s ({precision}): MFU {reached / peak:.0%}"
    if waited > MUCH_DATA:
        workers = config.data.workers + 1
        return f"{found}; next: data.workers={workers} reads while the step computes"
    if precision == "bf16":
        return found
    faster = matmul_tflops(device, "bf16") / matmul_tflops(device, precision)
    if faster < MUCH_FASTER:
        return found
    return f"{found}; next: training.precision=bf16, {faster:.1f} times as fast at products"
