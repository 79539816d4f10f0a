"""What the order of examples costs at sizes that no test machine holds.

Prints, for one worker of many, how long an epoch's order takes to lay out, how long the worker's
part of a global batch takes, both in milliseconds, and the memory of the order::

    python benchmarks/order.py
"""

import time
import tracemalloc
from collections.abc import Callable
from statistics import median

import numpy as np

from ray_diffusion.data.mixture import Mixture
from ray_diffusion.data.order import Order

SHARDS = (1_000, 100_000, 1_000_000)
PER_SHARD = 7500
WORLD, BATCH = 1024, 2**18
LANES, SHARDS_PER_BLOCK = 64, 4
ROUNDS = 5


def milliseconds(work: Callable[[int], object]) -> float:
    """Time of one call, the median of a few."""
    found = []
    for i in range(ROUNDS):
        started = time.perf_counter()
        work(i)
        found.append(time.perf_counter() - started)
    return 1000 * median(found)


def megabytes(work: Callable[[], object]) -> tuple[float, float]:
    """Memory that a call takes and keeps, and the most that it takes meanwhile."""
    tracemalloc.start()
    kept = work()
    now, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept
    return now / 1e6, most / 1e6


def main() -> None:
    """Measure and print."""
    print(f"{WORLD:,} workers, a global batch of {BATCH:,}, {PER_SHARD:,} examples a shard")
    print(
        f"{'shards':>9} {'examples':>14} {'epoch ms':>9} {'batch ms':>9} {'MB':>6} {'most MB':>8}"
    )
    for shards in SHARDS:
        sizes = np.full(shards, PER_SHARD)

        def laid_out(sizes: np.ndarray = sizes) -> Order:
            order = Order(sizes, 0, LANES, SHARDS_PER_BLOCK * PER_SHARD)
            order.locate(np.zeros(1, np.int64))
            return order

        order = laid_out()
        mixture, n = Mixture([order], [0], [1.0]), order.num_examples
        epoch = milliseconds(lambda i, order=order, n=n: order.locate(np.array([(i + 1) * n])))
        batch = milliseconds(
            lambda i, mixture=mixture, n=n: mixture.part(ROUNDS * n + i * BATCH, BATCH, i, WORLD)
        )
        kept, most = megabytes(laid_out)
        print(f"{shards:9,} {n:14,} {epoch:9.1f} {batch:9.2f} {kept:6.1f} {most:8.1f}")


if __name__ == "__main__":
    main()
