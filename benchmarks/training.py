"""How fast a network trains and draws, against two other libraries: ratios within one run.

Each contender is a process of ``benchmarks/peers``, has a network of the same size for the same
images, and trains by its own library's step: forward, backward, optimizer, average of the weights.
Peers run as shipped, in float32, and once more in bfloat16 and channels_last. All work by turns,
in several rounds; what is printed are medians over the rounds::

    python benchmarks/training.py [--quick] [--rounds N] [--steps N] [--evaluations N]

On a machine that others use as well, ``OMP_NUM_THREADS=1`` and ``--clock cpu`` count processor time
instead, which is the same on one that is idle.

The peers get an environment of their own, made in ``build/peers`` the first time. The limit is the
rate at which one large product of matrices, or one convolution, of a contender's precision is made,
measured in each round. All contenders together take 10 GB of memory.
"""

import argparse
import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from peers.turns import CLOCKS

HERE = Path(__file__).parent
PEERS = HERE.parent / "build" / "peers"
INSTALLED = [
    f"torch=={torch.__version__.partition('+')[0]}",  # the same for all
    *("diffusers", "accelerate", "einops", "scipy", "tqdm"),
]
# Alone, as the first asks for torchvision, which need not fit the torch there is.
INSTALLED_ALONE = ["denoising-diffusion-pytorch", "ema-pytorch"]
SURROUNDINGS = {"CUDA_VISIBLE_DEVICES": "", "DIFFUSERS_VERBOSITY": "error"}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
SIDE, WIDTH, TRIES = 2048, 256, 3  # of the matrices and convolutions that measure the limit
OURS, DIFFUSERS = {"ours": "ours"}, {"diffusers": "huggingface"}  # and their programs
ALL = OURS | {"denoising-diffusion-pytorch": "lucidrains"} | DIFFUSERS
SHARES = {"train": 1, "draw": 1 / 3}  # of a step's FLOPs: backward takes twice what forward does
TITLES = {"train": "images/s trained", "draw": "images/s drawn x evaluations"}

Ask = Callable[[str], Any]  # sends a contender a line, if any, and waits for its answer


class Race(NamedTuple):
    """A network and those that have one like it; 16 images a step are the least that all take."""

    net: str
    batch: int
    contenders: dict[str, str]


RACES = (Race("small", 32, ALL), Race("cifar10", 16, OURS | DIFFUSERS))


class Entry(NamedTuple):
    """A contender that is ready.

    Attributes:
        precision: A key of ``DTYPES``.
        ask: Has it work.
        facts: ``parameters``, and ``flops``, of a step.
    """

    precision: str
    ask: Ask
    facts: dict[str, int]


class Round(NamedTuple):
    """One turn of all.

    Attributes:
        limits: FLOPs per second, by precision.
        seconds: What each took, by verb and name.
    """

    limits: dict[str, float]
    seconds: dict[str, dict[str, float]]


def peers_python() -> str:
    """The interpreter of the peers' environment, which is made if there is none."""
    python, stamp = PEERS / "bin" / "python", PEERS / ".installed"
    if not stamp.exists():
        print(f"installing the peers into {PEERS}: some minutes", file=sys.stderr)
        venv.create(PEERS, clear=True, with_pip=True)
        install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*install, *INSTALLED], check=True)
        subprocess.run([*install, "--no-deps", *INSTALLED_ALONE], check=True)
        stamp.touch()
    return str(python)


@contextmanager
def contender(command: list[str]) -> Iterator[Ask]:
    """Keep a program of ``benchmarks/peers`` waiting for lines."""
    pipe, environment = subprocess.PIPE, os.environ | SURROUNDINGS
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        lines, answers = process.stdin, process.stdout
        assert lines is not None
        assert answers is not None

        def ask(line: str) -> Any:
            if line:
                print(line, file=lines, flush=True)
            return json.loads(answers.readline() or sys.exit(f"{' '.join(command)} has ended"))

        try:
            yield ask
        finally:
            process.kill()


def enter(race: Race, clock: str, stack: ExitStack) -> dict[str, Entry]:
    """Start a race's contenders, each in both precisions; the first is ours in bfloat16."""
    field = {}
    for precision, manner in (("bf16", "bf16, channels_last"), ("fp32", "fp32, as shipped")):
        for name, program in race.contenders.items():
            python = sys.executable if program == "ours" else peers_python()
            path = str(HERE / "peers" / f"{program}.py")
            command = [python, path, race.net, str(race.batch), precision, clock]
            ask = stack.enter_context(contender(command))
            field[f"{name}, {manner}"] = Entry(precision, ask, ask(""))
    return field


def limit(precision: str, clock: Callable[[], float]) -> float:
    """FLOPs per second of a product of matrices or of a convolution, whichever is faster."""
    a = torch.ones(SIDE, SIDE, dtype=DTYPES[precision])
    x = torch.ones(16, WIDTH, 32, 32, dtype=a.dtype).to(memory_format=torch.channels_last)
    kernel = torch.ones(WIDTH, WIDTH, 3, 3, dtype=a.dtype).to(memory_format=torch.channels_last)
    products = {
        2 * SIDE**3: lambda: a @ a,
        2 * x.numel() * kernel[0].numel(): lambda: torch.conv2d(x, kernel, padding=1),
    }
    rates = []
    for flops, product in products.items():
        for _ in range(TRIES):
            started = clock()
            product()
            rates.append(flops / (clock() - started))
    return max(rates)


def turn(field: dict[str, Entry], clock: str, work: dict[str, int]) -> Round:
    """Let all work once: how many steps, or evaluations, by verb."""
    return Round(
        {precision: limit(precision, CLOCKS[clock]) for precision in DTYPES},
        {
            verb: {name: entry.ask(f"{verb} {count}") for name, entry in field.items()}
            for verb, count in work.items()
        },
    )


def show(verb: str, batch: int, count: int, field: dict[str, Entry], rounds: list[Round]) -> None:
    """Print each one's rate, its share of the limit, and how many times as fast the first is."""
    print(f"\n  {TITLES[verb]:<59} of limit   the first is times as fast (least, most)")
    taken = {name: [found.seconds[verb][name] for found in rounds] for name in field}
    first = next(iter(taken.values()))
    for name, entry in field.items():
        flops = count * entry.facts["flops"] * SHARES[verb]
        limits = [one.limits[entry.precision] for one in rounds]
        found = list(zip(first, taken[name], limits, strict=True))
        share = median(flops / seconds / limit for _, seconds, limit in found)
        ratios = [seconds / own for own, seconds, _ in found]
        spread = f"{median(ratios):8.2f} ({min(ratios):.2f}, {max(ratios):.2f})"
        rate = batch * count / median(taken[name])
        print(f"    {name:<48} {rate:8.2f} {share:9.0%} {spread}", flush=True)


def run(race: Race, clock: str, rounds: int, work: dict[str, int]) -> None:
    """Hold a race and print what came of it."""
    with ExitStack() as stack:
        field = enter(race, clock, stack)
        found = [turn(field, clock, work) for _ in range(rounds + 1)][1:]  # the first warms up
    measured = (f"{p} {median(r.limits[p] for r in found) / 1e12:.2f}" for p in DTYPES)
    print(f"\n{race.net}: {race.batch} images a step; limit in TFLOP/s: {', '.join(measured)}")
    for name, (_, _, facts) in field.items():
        millions, gflops = facts["parameters"] / 1e6, facts["flops"] / race.batch / 1e9
        print(f"    {name:<48} {millions:8.1f} M parameters {gflops:8.2f} GFLOP an image trained")
    for verb, count in work.items():
        show(verb, race.batch, count, field, found)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="in each round")
    parser.add_argument("--evaluations", type=int, default=4, help="of the network in each round")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--quick", action="store_true", help="one round of one step: a trial")
    options = parser.parse_args()
    if options.quick:
        options.rounds = options.steps = options.evaluations = 1
    work = {"train": options.steps, "draw": options.evaluations}
    print(f"{torch.get_num_threads()} threads each, seconds by {options.clock} clock")
    for race in RACES:
        run(race, options.clock, options.rounds, work)


if __name__ == "__main__":
    main()
