import pytest
import torch

from ray_diffusion import config
from ray_diffusion.config import Config
from ray_diffusion.diffusion.schedule import SCHEDULES, table
from ray_diffusion.diffusion.solvers import SOLVERS
from ray_diffusion.models.build import build
from ray_diffusion.models.draw import draw, logsnr_table


def configured(**keys: object) -> Config:
    small = {
        "model.channels": 8,
        "model.blocks_per_level": 1,
        "model.num_classes": 3,
        "model.image_channels": 1,
        "sampler.num_inference_steps": 3,
    }
    return config.override(Config(), small | keys)


def awake(run: Config) -> torch.nn.Module:
    """A network whose zeroed layers have weights too, as after training."""
    network, draws = build(run, seed=0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1, generator=draws)
    return network


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_table_of_a_run_is_that_of_its_schedule(schedule: str):
    run = configured(**{"diffusion.beta_schedule": schedule, "diffusion.num_train_timesteps": 60})
    assert logsnr_table(run).equal(table(schedule, 60))


def test_the_betas_of_a_run_reach_its_schedule():
    run = configured(**{"diffusion.beta_schedule": "linear", "diffusion.beta_end": 0.03})
    assert logsnr_table(run).equal(table("linear", 1000, beta_end=0.03))


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_an_image_is_drawn_again_from_its_seed_index_and_class(
    solver: str, prediction_type: str, guidance_scale: float
):
    run = configured(
        **{
            "sampler.solver": solver,
            "sampler.guidance_scale": guidance_scale,
            "diffusion.prediction_type": prediction_type,
        }
    )
    network = awake(run)
    images = draw(network, run, torch.tensor([0, 1, 2, 3]), seed=5)
    assert images.dtype == torch.uint8
    assert images.shape == (4, 1, 8, 8)
    again = draw(network, run, torch.tensor([2]), seed=5, indices=[2])
    # Another batch size rounds otherwise in the network, by less than a grey level.
    assert (again[0].int() - images[2].int()).abs().max() <= 1
    assert not draw(network, run, torch.tensor([2]), seed=5, indices=[3]).equal(again)
    assert not draw(network, run, torch.tensor([2]), seed=6, indices=[2]).equal(again)


def test_guidance_changes_the_images_of_a_class_and_not_those_of_none():
    network = awake(configured())
    labels = torch.tensor([0, 3])
    plain, guided = (
        draw(network, configured(**{"sampler.guidance_scale": scale}), labels, seed=0)
        for scale in (1.0, 4.0)
    )
    assert not plain[0].equal(guided[0])
    assert (plain[1].int() - guided[1].int()).abs().max() <= 1


def test_clipping_can_be_switched_off():
    network = awake(configured())
    labels = torch.tensor([0, 1])
    clipped, free = (
        draw(network, configured(**{"sampler.clip_x0": clip}), labels, seed=0)
        for clip in (True, False)
    )
    assert not clipped.equal(free)
