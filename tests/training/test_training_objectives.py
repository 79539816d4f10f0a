"""Whatever the objective, the loop trains it; and `val/score` asks all of them the same."""

from pathlib import Path
from typing import get_args

import pytest
import torch
from toy import BATCH, CPU, World, configured

from ray_diffusion import config
from ray_diffusion.config import Config
from ray_diffusion.config.schema import Diffusion
from ray_diffusion.data.reader import Dataset
from ray_diffusion.diffusion.profile import PROFILE_LEVELS, SCORE_LEVELS, score
from ray_diffusion.models.codecs.space import Pixels
from ray_diffusion.models.draw import draw, logsnr_table
from ray_diffusion.training import validation
from ray_diffusion.training.state import initial_state
from ray_diffusion.training.validation import errors_at, validation_loss

SCHEDULES = get_args(Diffusion.model_fields["beta_schedule"].annotation)
AXES = {
    f"diffusion.{key}={choice}": {f"diffusion.{key}": choice}
    for key in ("family", "prediction_type", "loss", "weighting", "timestep_sampling")
    for choice in get_args(Diffusion.model_fields[key].annotation)
} | {
    "learned variance": {"diffusion.learn_variance": True},
    "zero terminal SNR": {"diffusion.rescale_zero_terminal_snr": True},
    "score network": {
        "diffusion.family": "sgm",
        "diffusion.beta_schedule": "geometric",
        "diffusion.prediction_type": "score",
        "sampler.solver": "langevin",
    },
    "edm": {
        "diffusion.family": "ve_sde",
        "diffusion.beta_schedule": "edm",
        "diffusion.prediction_type": "edm",
        "diffusion.weighting": "edm",
        "diffusion.timestep_sampling": "lognormal",
        "sampler.solver": "heun",
        "sampler.grid": "karras",
    },
}


@pytest.fixture
def val(run: Config):
    dataset = Dataset(run.data.dataset_url, "val", run.data.image_size, run.data.cache_bytes)
    yield dataset
    dataset.close()


@pytest.mark.parametrize("keys", AXES.values(), ids=AXES)
def test_every_objective_lowers_the_score(dataset: Path, world: World, val: Dataset, keys: dict):
    steps = {"training.total_images": 40 * BATCH, "training.validate_every_images": 40 * BATCH}
    run = configured(dataset, **steps, **keys, **{"optim.lr": 2e-3})
    untrained = errors_at(
        SCORE_LEVELS, initial_state(run, CPU).average, val, run, Pixels(), hidden=False
    )
    found = world.train(run)
    assert found["metrics"]["val/score"] < 0.9 * float(untrained.mean())


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_trains_and_draws(dataset: Path, world: World, schedule: str):
    keys = {"diffusion.beta_schedule": schedule, "training.total_images": 2 * BATCH}
    if schedule == "custom":
        keys |= {"diffusion.betas": [0.02, 0.2, 0.9, 0.99], "diffusion.num_train_timesteps": 4}
    found = world.train(configured(dataset, **keys))
    assert len(found["profile"]) == len(PROFILE_LEVELS)
    assert world.shown == [2 * BATCH]


class Silent(torch.nn.Module):
    """Predicts nothing, whatever it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x_t: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x_t)


def test_the_score_of_one_model_does_not_depend_on_schedule_nor_timesteps(
    run: Config, val: Dataset
):
    """The same answers; the training loss calls them 5 times better under the other schedule."""
    scores, losses = [], []
    for keys in (
        {"diffusion.beta_schedule": "cosine"},
        {"diffusion.beta_schedule": "linear", "diffusion.num_train_timesteps": 4000},
        {"diffusion.beta_schedule": "linear", "diffusion.weighting": "min_snr"},
        {"run.seed": 7, "data.global_batch_size": 8, "diffusion.loss": "l1"},
    ):
        chosen = config.override(run, keys | {"diffusion.prediction_type": "sample"})
        errors = errors_at(PROFILE_LEVELS, Silent(), val, chosen, Pixels(), hidden=False)
        scores.append(score(errors))
        losses.append(validation_loss(Silent(), val, chosen, Pixels(), logsnr_table(chosen)))
    assert len(set(scores)) == 1
    assert len({round(loss, 6) for loss in losses}) > 1


def test_a_model_that_says_zero_has_the_error_of_the_data_at_every_level(run: Config, val: Dataset):
    chosen = config.override(run, {"diffusion.prediction_type": "sample"})
    errors = errors_at(PROFILE_LEVELS, Silent(), val, chosen, Pixels(), hidden=False)
    images = val.read(0, len(val)).images.double() / 127.5 - 1
    expected = torch.tensor(PROFILE_LEVELS).double().exp() * images.square().mean()
    assert torch.allclose(errors, expected, rtol=1e-5)


def test_the_profile_does_not_depend_on_batches_nor_on_levels_asked_beside(
    run: Config, val: Dataset, monkeypatch: pytest.MonkeyPatch
):
    network = initial_state(run, CPU).average
    whole = errors_at(PROFILE_LEVELS, network, val, run, Pixels(), hidden=False)
    monkeypatch.setattr(validation, "BATCH", 7)
    some = errors_at(SCORE_LEVELS, network, val, run, Pixels(), hidden=False)
    inside = [PROFILE_LEVELS.index(level) for level in SCORE_LEVELS]
    assert torch.allclose(whole[inside], some, rtol=1e-6)


def test_a_large_split_is_profiled_by_images_spread_over_it(
    run: Config, val: Dataset, monkeypatch: pytest.MonkeyPatch
):
    read: list[int] = []
    original = val.at
    monkeypatch.setattr(
        val, "at", lambda positions: (read.extend(positions), original(positions))[1]
    )
    monkeypatch.setattr(validation, "MOST_PROFILED", 5)
    errors_at((0,), Silent(), val, run, Pixels(), hidden=True)
    assert read == [0, 20, 40, 60, 80]


def test_a_learned_variance_draws(run: Config):
    keys = {
        "diffusion.learn_variance": True,
        "sampler.solver": "ddpm",
        "sampler.variance": "learned",
        "sampler.num_inference_steps": 3,
    }
    run = config.override(run, keys)
    images = draw(initial_state(run, CPU).average, run, Pixels(), torch.arange(4), seed=0)
    assert images.shape == (4, 1, 8, 8)
