"""What the contenders of ``training.py`` share: they say what they cost, then work by turns."""

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

SIDE, CHANNELS = 32, 3  # of the images
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Given(NamedTuple):
    """What a contender is told on its command line.

    Attributes:
        net: ``small`` or ``cifar10``.
        batch: Images in a step.
        bf16: Whether to compute in bfloat16 and channels_last instead of as shipped.
        clock: Tells seconds.
    """

    net: str
    batch: int
    bf16: bool
    clock: Callable[[], float]


def given() -> Given:
    net, batch, precision, clock = sys.argv[1:]
    return Given(net, int(batch), precision == "bf16", CLOCKS[clock])


def take_turns(
    network: nn.Module,
    train: Callable[[int], object],
    draw: Callable[[int], object],
    clock: Callable[[], float],
) -> None:
    """Answer each line of stdin by a line of JSON, until there are no more.

    The first answer comes by itself: the network's ``parameters``, and the ``flops`` of a training
    step. Then ``train N`` or ``draw N`` is answered by the seconds it took.

    Args:
        network: The network.
        train: Makes so many training steps.
        draw: Draws a batch of images with so many evaluations of the network.
        clock: Tells seconds.
    """
    answers, work = sys.stdout, {"train": train, "draw": draw}
    torch.manual_seed(0)
    # Libraries are talkative; the traceback of an error comes after this.
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        # The counter takes attention's own kernels on a CPU for nothing.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            train(1)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        facts = {"parameters": parameters, "flops": counter.get_total_flops()}
        print(json.dumps(facts), file=answers, flush=True)
        for line in sys.stdin:
            name, count = line.split()
            started = clock()
            work[name](int(count))
            print(json.dumps(clock() - started), file=answers, flush=True)
