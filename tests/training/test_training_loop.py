import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy import BATCH, World, configured

from ray_diffusion import config
from ray_diffusion.config import Config
from ray_diffusion.errors import Diverged, Preempted, UsageError
from ray_diffusion.training.checkpoint import name_of

GOLDEN = [
    0.7152664,
    0.6386942,
    0.5955847,
    0.6488165,
    0.6368937,
    0.5948685,
    0.5966666,
    0.66338,
    0.591395,
    0.58661,
    0.5840213,
    0.5918642,
    0.6465371,
    0.6158716,
    0.5642079,
    0.6336854,
    0.5768119,
    0.5666005,
    0.5176591,
    0.5798413,
]


def test_the_losses_of_twenty_steps_are_those_on_record(dataset: Path, world: World):
    world.train(configured(dataset, **{"training.total_images": 20 * BATCH}))
    # Processors of different kinds add in different orders: 1e-4, where a change of the
    # arithmetic moves the later losses by 1e-2.
    assert world.losses == pytest.approx(GOLDEN, rel=1e-4)


def test_training_lowers_the_loss(dataset: Path, world: World):
    keys = {"training.total_images": 200 * BATCH, "training.validate_every_images": 100 * BATCH}
    found = world.train(configured(dataset, **keys))
    assert sum(world.losses[-20:]) < 0.7 * sum(world.losses[:20])
    for metric in ("val/loss", "val/score", "val/vlb_bpd"):
        first, last = (v for (_, name), v in world.points.items() if name == metric)
        assert last < first
    assert found["best"]["images_seen"] == 200 * BATCH


@pytest.mark.parametrize("classes", [0, 10])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_bf16_trains_weights_that_stay_float32(
    dataset: Path, world: World, prediction_type: str, classes: int
):
    keys = {
        "training.precision": "bf16",
        "training.total_images": 40 * BATCH,
        "diffusion.prediction_type": prediction_type,
        "model.num_classes": classes,
    }
    world.train(configured(dataset, **keys))
    assert sum(world.losses[-5:]) < sum(world.losses[:5])
    weights = load_file(world.path / world.run.names()[-1] / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}


def test_things_happen_when_images_seen_crosses_their_interval(undisturbed: World):
    at = {name: [seen for seen, n in undisturbed.points if n == name] for name in
          ("train/loss", "train/lr", "train/grad_norm", "val/loss")}  # fmt: skip
    every_step = [BATCH * step for step in range(1, 11)]
    assert at["train/loss"] == at["train/lr"] == at["train/grad_norm"] == every_step
    assert at["val/loss"] == undisturbed.shown == [5 * BATCH, 10 * BATCH]
    assert undisturbed.run.names() == [name_of(9 * BATCH), name_of(10 * BATCH)]


def test_intervals_need_not_be_multiples_of_the_batch(dataset: Path, world: World):
    keys = {
        "training.total_images": 100,  # 4 steps, the last beyond it
        "training.log_every_images": 50,
        "training.validate_every_images": 1000,
        "training.checkpoint_every_images": 1,
    }
    found = world.train(configured(dataset, **keys), keep=9)
    assert found["images_seen"] == 128
    assert found["steps"] == 4
    assert world.run.names() == [name_of(seen) for seen in (32, 64, 96, 128)]
    assert world.shown == [128]


def test_a_logged_loss_is_the_mean_since_the_last_line_and_none_spans_a_checkpoint(
    dataset: Path, world: World, undisturbed: World
):
    world.train(configured(dataset, **{"training.log_every_images": 4 * BATCH}))
    ends = [seen // BATCH for seen, name in world.points if name == "train/loss"]
    assert ends == [3, 4, 5, 6, 8, 9, 10]
    for start, end, loss in zip([0, *ends], ends, world.losses, strict=False):
        steps = undisturbed.losses[start:end]
        assert loss == pytest.approx(sum(steps) / len(steps), rel=1e-6)


def test_a_finished_run_has_nothing_left_to_do(run: Config, world: World):
    found = world.train(run)
    before = world.weights()
    again = World(world.path)
    assert again.train(run) == found
    assert not again.points
    assert world.weights() == before


def test_a_longer_budget_continues_a_finished_run(dataset: Path, run: Config, world: World):
    world.train(run)
    more = config.override(run, {"training.total_images": 12 * BATCH})
    assert world.train(more)["steps"] == 12


def test_the_result_tells_the_last_metrics_and_the_best(undisturbed: World, run: Config):
    found = undisturbed.train(run)
    assert found["images_seen"] == 10 * BATCH
    assert found["metrics"]["train/loss"] == undisturbed.losses[-1]
    scores = {seen: v for (seen, n), v in undisturbed.points.items() if n == "val/score"}
    best = min(scores, key=scores.get)
    assert found["best"]["images_seen"] == best
    assert found["best"]["val/score"] == scores[best]


def test_a_checkpoint_refuses_to_go_on_with_other_data(
    run: Config, world: World, other_dataset: Path
):
    world.train(run)
    other = config.override(run, {"data.dataset_url": str(other_dataset)})
    with pytest.raises(UsageError, match=r"was trained on dataset \w{16}.*choose another run.name"):
        world.train(other)
    more = {"run.allow": ["data.dataset_url"], "training.total_images": 12 * BATCH}
    assert world.train(config.override(other, more))["steps"] == 12


def assert_all_finite(world: World) -> None:
    for name in world.run.names():
        directory = world.path / name
        for file in ("model.safetensors", "ema.safetensors", "optimizer.safetensors"):
            assert all(value.isfinite().all() for value in load_file(directory / file).values())
        facts = (directory / "state.json").read_text()
        assert "NaN" not in facts
        assert "Infinity" not in facts
        json.loads(facts)


@pytest.mark.parametrize("every", ["log", "validate", "checkpoint"])
@pytest.mark.parametrize("lr", [1e9, 1e20, 1e30, 3e38])
def test_a_run_that_blows_up_ends_and_saves_nothing_of_it(
    run: Config, world: World, lr: float, every: str
):
    # Healthy for three steps, then a rate at which a single step ruins the weights.
    with pytest.raises(Preempted):
        world.train(run, stop_after=3)
    rarely = {f"training.{name}_every_images": 10**6 for name in ("log", "validate", "checkpoint")}
    ruin = {"optim.lr": lr, "training.total_images": 60 * BATCH}
    ruined = config.override(run, rarely | ruin | {f"training.{every}_every_images": BATCH})
    with pytest.raises(Diverged, match=r"images; lower optim\.lr or raise optim\.warmup_images"):
        world.train(ruined)
    assert_all_finite(world)
    assert name_of(3 * BATCH) in world.run.names()


def test_checkpoints_of_a_healthy_run_are_finite(undisturbed: World):
    assert_all_finite(undisturbed)
