"""The wall clock jumps, as it does when a machine wakes up or finds its time server."""

import itertools
import time
from pathlib import Path

import pytest
import torch
from mlflow_server import Server
from tiny_config import RESOLVED, TINY

from ray_diffusion import config
from ray_diffusion.storage import Directory
from ray_diffusion.tracking.client import connect
from ray_diffusion.tracking.delivery import Delivery
from ray_diffusion.tracking.identity import RunIdentity
from ray_diffusion.tracking.run import find_or_create
from ray_diffusion.tracking.spool import Spool
from ray_diffusion.tracking.tracker import Tracker
from ray_diffusion.training.harness import in_directory
from ray_diffusion.training.loop import loop
from ray_diffusion.training.retention import Keep

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::PendingDeprecationWarning", "ignore::FutureWarning"
)

HOUR_NS = 3600 * 10**9
JUMPS = {
    "ahead": itertools.repeat(HOUR_NS),
    "back": itertools.repeat(-HOUR_NS),
    "both": itertools.cycle([HOUR_NS, -HOUR_NS, -HOUR_NS, HOUR_NS, -HOUR_NS, HOUR_NS, HOUR_NS]),
}


def let_the_clock_jump(patch: pytest.MonkeyPatch, kind: str) -> None:
    """Have each look at the wall clock find it an hour off from where the look before did."""
    start, offsets = time.time_ns(), itertools.accumulate(JUMPS[kind])
    patch.setattr(time, "time_ns", lambda: start + next(offsets))
    patch.setattr(time, "time", lambda: (start + next(offsets)) / 1e9)


@pytest.mark.parametrize("kind", JUMPS)
def test_points_arrive_once_however_the_clock_jumps(
    kind: str,
    server: Server,
    identity: RunIdentity,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    let_the_clock_jump(monkeypatch, kind)
    with Tracker(tmp_path, "train", identity) as tracker:
        for step in range(1, 11):
            tracker.log(step, {"train/loss": step / 2})
        assert tracker.finish(deadline_s=60)
    # Killed after MLflow took the next points, and before it was written down that it did.
    run, spool = find_or_create(identity), Spool(tmp_path / "train.jsonl")
    for step in range(11, 16):
        spool.log(step, {"train/loss": step / 2})
    for batch in spool.unshipped():
        Delivery(connect(identity.uri), run.run_id).send(batch)
    spool.close()
    # Started again from a checkpoint at step 5.
    with Tracker(tmp_path, "train", identity, run_id=run.run_id) as tracker:
        for step in range(6, 21):
            tracker.log(step, {"train/loss": step / 2})
        assert tracker.finish("FINISHED", deadline_s=60)
    assert server.points(run.run_id, "train/loss") == [(step, step / 2) for step in range(1, 21)]
    found = connect(identity.uri).get_run(run.run_id)
    assert found.data.metrics["train/loss"] == 10
    assert found.info.status == "FINISHED"


def test_the_budget_and_the_checkpoints_are_counted_in_images_not_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    short = {
        "data.global_batch_size": 16,
        "training.total_images": 96,
        "training.log_every_images": 16,
        "training.checkpoint_every_images": 32,
        "sampler.num_inference_steps": 1,
    }
    tiny = config.override(config.load([]), TINY | RESOLVED | short)

    def train(name: str) -> tuple[list[str], dict[int, float], dict[str, float]]:
        run, losses = Directory(str(tmp_path / name)), {}
        harness = in_directory(
            run, Keep(9), lambda seen, found: losses.setdefault(seen, found.get("train/loss"))
        )
        ended = loop(tiny, harness, torch.device("cpu"))
        return run.names(), losses, {k: ended[k] for k in ("images_seen", "steps")}

    steady = train("steady")
    let_the_clock_jump(monkeypatch, "both")
    assert train("jumping") == steady
    names, losses, ended = steady
    assert names == [f"checkpoint-{images:012d}" for images in (32, 64, 96)]
    assert list(losses) == list(range(16, 97, 16))
    assert ended == {"images_seen": 96, "steps": 6}
