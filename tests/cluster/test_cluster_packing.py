"""Packing on Ray: the bytes of one process, whatever the number of workers."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from local_cluster import Cluster
from toy_source import png

from ray_diffusion.data.packing.output import NOTES, REPORT
from ray_diffusion.storage import MANIFEST

pytestmark = pytest.mark.ray

TASKS = """
import sys
from ray_diffusion.cluster.connect import connected
from ray_diffusion.errors import StorageError, run


def work(task):
    if task == 7:
        raise StorageError("task 7 cannot be done")
    return task**2


def main(argv):
    with connected():
        from ray_diffusion.cluster.tasks import on_ray
        for workers in (1, 4, None):
            print(list(on_ray(workers)(work, iter(range(7)))))
        asked = []
        tasks = (asked.append(task) or task for task in range(100))
        try:
            for result in on_ray(3)(work, tasks):
                print(result, len(asked))
        finally:
            print("asked for", len(asked))


sys.exit(run(main))
"""

ABANDONED = """
import sys
from ray_diffusion.cluster.connect import connected
from ray_diffusion.errors import run


def main(argv):
    with connected():
        from ray_diffusion.cluster.tasks import on_ray
        for _ in range(500):
            results = on_ray(2)(abs, iter((-1, -2, -3)))
            assert next(results) == 1
            results.close()


sys.exit(run(main))
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 images in three folders, one of them damaged."""
    folder = tmp_path_factory.mktemp("images")
    y, x = np.mgrid[:12, :12]
    for i in range(600):
        path = folder / "abc"[i % 3] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png((i * x + i // 256 * y + i).astype(np.uint8)))
    (folder / "a" / "0.png").write_bytes(b"no image")
    return folder


def content(dataset: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in dataset.iterdir() if path.name != REPORT}


def test_any_number_of_workers_packs_the_same_bytes(cluster: Cluster, images: Path, tmp_path: Path):
    found = []
    for workers in (1, 2, 4):
        out = tmp_path / str(workers)
        words = [f"source={images}", f"out={out}", f"workers={workers}", "examples_per_shard=50"]
        done = cluster.run("ray_diffusion.pack", *words)
        assert done.returncode == 0, done.stderr
        found.append(content(out))
    assert found[0] == found[1] == found[2]
    manifest = json.loads(found[0][MANIFEST])
    assert manifest["rejected"]["cannot be decoded"] == 1
    done = cluster.run("ray_diffusion.pack", "verify", str(tmp_path / "4"), "workers=2")
    assert done.returncode == 0, done.stderr
    fingerprint = manifest["fingerprint"]
    assert re.search(rf"is whole: \d+ shards, fingerprint {fingerprint}$", done.stdout)


def test_results_come_in_order_and_errors_as_they_were_raised(cluster: Cluster):
    done = subprocess.run(
        [sys.executable, "-c", TASKS], env=cluster.env, capture_output=True, text=True
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr == "error: task 7 cannot be done\n"
    lists, results = done.stdout.splitlines()[:3], done.stdout.splitlines()[3:]
    assert lists == [str([n**2 for n in range(7)])] * 3
    # Never more than three tasks are under way, and none is asked for after the failure.
    assert results == [*(f"{n**2} {n + 3}" for n in range(7)), "asked for 10"]


def test_results_can_be_abandoned_while_tasks_end(cluster: Cluster):
    """Ray aborts the process that cancels a task whose result is just arriving."""
    done = subprocess.run(
        [sys.executable, "-c", ABANDONED], env=cluster.env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_too_much_damage_is_one_line_and_leaves_no_dataset(
    cluster: Cluster, images: Path, tmp_path: Path
):
    words = [f"source={images}", f"out={tmp_path}", "workers=2", "max_unreadable=0"]
    done = cluster.run("ray_diffusion.pack", *words)
    assert done.returncode == 3
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert "1 of 600 images" in line
    assert [path.name for path in tmp_path.iterdir()] == [NOTES]
