"""What bad examples and a smaller cache do to a run."""

import json
import os
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from toy import BATCH, CPU, World, configured
from two_workers import first_slice, task

from ray_diffusion.config import Config
from ray_diffusion.data.manifest import read_manifest
from ray_diffusion.data.tar import index
from ray_diffusion.errors import DataError, Preempted
from ray_diffusion.storage import Directory, digest
from ray_diffusion.training.state import initial_state
from ray_diffusion.training.step import train_step


@pytest.fixture
def spoiled(dataset: Path, tmp_path: Path) -> Path:
    """The dataset with one image that is none, in a shard that is what its manifest says."""
    copy = tmp_path / "spoiled"
    shutil.copytree(dataset, copy)
    manifest = read_manifest(str(copy))
    first, *others = manifest.splits["train"]
    path = copy / first.name
    content = bytearray(path.read_bytes())
    descriptor = os.open(path, os.O_RDONLY)
    offset, size = index(descriptor)[3].fields["png"]
    os.close(descriptor)
    content[offset : offset + size] = bytes(size)
    path.write_bytes(content)
    facts = {"crc32": zlib.crc32(content), "sha256": str(digest(path)["sha256"])}
    splits = manifest.splits | {"train": (replace(first, **facts), *others)}
    replace(manifest, splits=splits).write(Directory(str(copy)))
    return copy


def run_on(spoiled: Path, storage: Path, policy: str) -> Config:
    keys = {"data.corrupt_policy": policy, "data.max_corrupt": 0.5}
    return configured(spoiled, **{"run.storage_url": str(storage)} | keys)


def test_a_bad_example_ends_a_run_unless_told_otherwise(spoiled: Path, world: World):
    with pytest.raises(DataError, match=r"cannot be decoded: not an image$"):
        world.train(configured(spoiled))


@pytest.mark.parametrize("policy", ["substitute", "mask"])
def test_a_run_goes_on_past_a_bad_example_and_says_so(
    spoiled: Path, world: World, tmp_path: Path, policy: str, capsys: pytest.CaptureFixture[str]
):
    found = world.train(run_on(spoiled, tmp_path, policy))
    assert found["images_seen"] == 10 * BATCH
    bad = [value for (_, name), value in world.points.items() if name == "train/bad_examples"]
    # 320 images of a split of 300: the example comes once, or once more in the second epoch.
    assert sum(bad) in (1, 2)
    (entry,) = (tmp_path / "digits" / "quarantine").iterdir()
    assert json.loads(entry.read_text())["problem"] == "cannot be decoded: not an image"
    assert f"data.corrupt_policy={policy}" in capsys.readouterr().err


def test_an_example_without_weight_teaches_nothing(run: Config):
    batch, learns = first_slice(run, 0, 1), task(run)
    batch.weights[3] = 0
    steps = []
    for pixel in (0, 200):
        batch.images[3] = pixel
        steps.append(train_step(initial_state(run, CPU), batch, learns))
    assert steps[0].loss == steps[1].loss
    assert steps[0].grad_norm == steps[1].grad_norm
    batch.weights[3] = 1
    whole = train_step(initial_state(run, CPU), batch, learns)
    assert whole.loss != steps[0].loss


def test_a_run_keeps_its_order_whatever_the_cache_may_hold_later(
    run: Config, undisturbed: World, world: World, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(Preempted):
        world.train(run, stop_after=3)
    monkeypatch.setattr("ray_diffusion.data.locality.MAX_LANES", 1)  # as in a tiny cache
    world.train(run)
    assert world.weights() == undisturbed.weights()
