import pytest
import torch

from ray_diffusion import config
from ray_diffusion.config import Config
from ray_diffusion.diffusion.family import FAMILIES
from ray_diffusion.diffusion.grids import GRIDS, itinerary
from ray_diffusion.diffusion.parameterization import PARAMETERIZATIONS
from ray_diffusion.diffusion.profile import PROFILE_LEVELS
from ray_diffusion.diffusion.schedule import SCHEDULES, custom, linear, with_zero_terminal_snr
from ray_diffusion.diffusion.solvers import SOLVERS
from ray_diffusion.errors import UsageError
from ray_diffusion.models.build import build
from ray_diffusion.models.codecs.space import Pixels
from ray_diffusion.models.draw import draw, levels_of, logsnr_table, model_of, solver_options

PROFILE = torch.sigmoid(torch.tensor(PROFILE_LEVELS, dtype=torch.float64))


def configured(**keys: object) -> Config:
    small = {
        "model.channels": 8,
        "model.blocks_per_level": 1,
        "model.num_classes": 3,
        "model.image_channels": 1,
        "sampler.num_inference_steps": 3,
    }
    return config.override(Config(), small | keys)


def with_variance(variance: str) -> Config:
    """A run whose network learned the variance too, and which samples with any."""
    return configured(
        **{
            "diffusion.learn_variance": True,
            "sampler.solver": "ddpm",
            "sampler.variance": variance,
        }
    )


def awake(run: Config) -> torch.nn.Module:
    """A network whose zeroed layers have weights too, as after training."""
    network, draws = build(run, seed=0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1, generator=draws)
    return network


@pytest.mark.parametrize("schedule", sorted(set(SCHEDULES) - {"custom"}))
def test_the_table_of_a_run_is_that_of_its_schedule(schedule: str):
    run = configured(**{"diffusion.beta_schedule": schedule, "diffusion.num_train_timesteps": 60})
    diffusion = run.diffusion
    expected = SCHEDULES[schedule](
        60,
        beta_start=diffusion.beta_start,
        beta_end=diffusion.beta_end,
        sigma_min=diffusion.sigma_min,
        sigma_max=diffusion.sigma_max,
    )
    assert logsnr_table(run).equal(expected)


def test_the_options_of_a_run_reach_its_schedule():
    keys = {
        "diffusion.beta_schedule": "linear",
        "diffusion.beta_end": 0.03,
        "diffusion.scale_betas": False,
        "diffusion.num_train_timesteps": 300,
    }
    table = linear(300, beta_start=1e-4, beta_end=0.03, scale_betas=False)
    assert logsnr_table(configured(**keys)).equal(table)
    bent = configured(**keys, **{"diffusion.rescale_zero_terminal_snr": True})
    assert logsnr_table(bent).equal(with_zero_terminal_snr(table))


def test_a_run_may_bring_its_own_betas():
    keys = {
        "diffusion.beta_schedule": "custom",
        "diffusion.betas": (0.1, 0.4, 0.9, 0.99),
        "diffusion.num_train_timesteps": 4,
    }
    assert logsnr_table(configured(**keys)).equal(custom(4, betas=(0.1, 0.4, 0.9, 0.99)))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("grid", GRIDS)
def test_a_run_samples_along_its_grid_with_its_number_of_evaluations(grid: str, solver: str):
    run = configured(
        **{"sampler.grid": grid, "sampler.solver": solver, "sampler.num_inference_steps": 9}
    )
    levels = levels_of(run)
    assert levels.shape == (10,)
    assert levels.equal(itinerary(grid, logsnr_table(run), 9, SOLVERS[solver].visits))


@pytest.mark.parametrize("family", FAMILIES)
def test_solvers_step_in_the_scale_of_the_family(family: str):
    keys = {"diffusion.family": family, "sampler.solver": "ddim", "sampler.eta": 0.5}
    options = solver_options(configured(**keys))
    assert options.signal is FAMILIES[family].signal
    assert options.eta == 0.5
    assert not options.upper_variance
    beta = configured(**{"sampler.solver": "ddpm", "sampler.variance": "beta"})
    assert solver_options(beta).upper_variance


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("solver", SOLVERS)
def test_an_image_is_drawn_again_from_its_seed_index_and_class(solver: str, guidance_scale: float):
    run = configured(**{"sampler.solver": solver, "sampler.guidance_scale": guidance_scale})
    network = awake(run)
    images = draw(network, run, Pixels(), torch.tensor([0, 1, 2, 3]), seed=5)
    assert images.dtype == torch.uint8
    assert images.shape == (4, 1, 8, 8)
    again = draw(network, run, Pixels(), torch.tensor([2]), seed=5, indices=[2])
    # Another batch size rounds otherwise in the network, by less than a grey level.
    assert (again[0].int() - images[2].int()).abs().max() <= 1
    assert not draw(network, run, Pixels(), torch.tensor([2]), seed=5, indices=[3]).equal(again)
    assert not draw(network, run, Pixels(), torch.tensor([2]), seed=6, indices=[2]).equal(again)


@pytest.mark.parametrize("prediction_type", PARAMETERIZATIONS)
def test_what_the_network_predicts_decides_what_is_drawn(prediction_type: str):
    runs = [configured(**{"diffusion.prediction_type": name}) for name in PARAMETERIZATIONS]
    network = awake(runs[0])
    images = {
        run.diffusion.prediction_type: draw(network, run, Pixels(), torch.arange(3), seed=0)
        for run in runs
    }
    same = [name for name, found in images.items() if found.equal(images[prediction_type])]
    assert same == [prediction_type]


def test_each_variance_of_ddpm_draws_its_own_images():
    drawn = []
    network = awake(configured(**{"diffusion.learn_variance": True}))
    for variance in ("beta_tilde", "beta", "analytic", "learned"):
        run = with_variance(variance)
        drawn.append(draw(network, run, Pixels(), torch.arange(3), seed=0, profile=PROFILE))
    for i, images in enumerate(drawn):
        assert not any(images.equal(other) for other in drawn[:i])


def test_the_model_tells_the_variance_that_the_sampler_asks_for():
    x_t, logsnr = torch.ones(1, 1, 8, 8), torch.tensor([2.0], dtype=torch.float64)
    found = {}
    for variance in ("beta_tilde", "beta", "analytic", "learned"):
        run = with_variance(variance)
        model = model_of(awake(run), run, torch.ones(1), PROFILE)
        found[variance] = model(x_t, logsnr, torch.tensor([0])).x0_var
    assert found["beta_tilde"] is None
    assert found["beta"] is None
    assert found["analytic"] is not None
    # The error of the noise is sigmoid(2) there; that of x0 is exp(-2) times it, sigmoid(-2).
    assert float(found["analytic"]) == pytest.approx(float(torch.sigmoid(-logsnr)))
    assert found["learned"] is not None
    assert found["learned"].shape == x_t.shape


def test_the_analytic_variance_needs_a_validation():
    run = configured(**{"sampler.solver": "ddpm", "sampler.variance": "analytic"})
    with pytest.raises(UsageError, match=r"sampler\.variance: analytic needs the profile"):
        draw(awake(run), run, Pixels(), torch.tensor([0]), seed=0)


def test_guidance_changes_the_images_of_a_class_and_not_those_of_none():
    network = awake(configured())
    labels = torch.tensor([0, 3])
    plain, guided = (
        draw(network, configured(**{"sampler.guidance_scale": scale}), Pixels(), labels, seed=0)
        for scale in (1.0, 4.0)
    )
    assert not plain[0].equal(guided[0])
    assert (plain[1].int() - guided[1].int()).abs().max() <= 1


def test_clipping_can_be_switched_off():
    network = awake(configured())
    labels = torch.tensor([0, 1])
    clipped, free = (
        draw(network, configured(**{"sampler.clip_x0": clip}), Pixels(), labels, seed=0)
        for clip in (True, False)
    )
    assert not clipped.equal(free)
