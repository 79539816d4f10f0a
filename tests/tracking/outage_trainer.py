"""Trains a run as the first worker of a launch does, without Ray, and waits where it is told to.

At each gate, a number of images seen, it prints what recording has cost so far, and goes on when
it is given a line.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch.distributed import ProcessGroup

from ray_diffusion.cluster.lineage import recorded, spool_directory
from ray_diffusion.storage import Directory
from ray_diffusion.tracking.tracker import Tracker
from ray_diffusion.training.harness import in_directory
from ray_diffusion.training.loop import loop
from ray_diffusion.training.retention import Keep

DEADLINE_S = 1.0  # tests need not wait ten seconds to see that an end is bounded


def main(url: str, *gates: str) -> None:
    run = Directory(url)
    config, identity = recorded(run)
    with Tracker(spool_directory(config, identity), "train", identity) as tracker:

        def log(images_seen: int, metrics: Mapping[str, float]) -> None:
            tracker.log(images_seen, metrics)
            if "train/loss" in metrics and str(images_seen) in gates:
                told = {"blocked_s": tracker.blocked_s, "backlog": tracker.backlog}
                print(json.dumps(told), flush=True)
                sys.stdin.readline()

        def save(directory: Path, images_seen: int, group: ProcessGroup | None) -> None:
            tracker.sync()
            kept.save(directory, images_seen, group)

        kept = in_directory(run, Keep(1), log)
        loop(config, replace(kept, save=save), torch.device("cpu"))
        print(json.dumps({"shipped": tracker.finish("FINISHED", DEADLINE_S)}), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
