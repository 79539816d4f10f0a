"""The names that the configuration offers are the ones that the code knows."""

from typing import get_args

import pytest

from ray_diffusion.config.schema import Diffusion, Model, Optim, Sampler
from ray_diffusion.diffusion.family import FAMILIES
from ray_diffusion.diffusion.grids import GRIDS
from ray_diffusion.diffusion.levels import TIMESTEP_SAMPLING
from ray_diffusion.diffusion.objective import LOSSES
from ray_diffusion.diffusion.parameterization import PARAMETERIZATIONS
from ray_diffusion.diffusion.schedule import SCHEDULES
from ray_diffusion.diffusion.solvers import SOLVERS
from ray_diffusion.diffusion.weighting import WEIGHTINGS
from ray_diffusion.models.build import MODELS
from ray_diffusion.training.lr import LR_SCHEDULES


@pytest.mark.parametrize(
    ("section", "key", "known"),
    [
        (Diffusion, "beta_schedule", SCHEDULES),
        (Diffusion, "family", FAMILIES),
        (Diffusion, "loss", LOSSES),
        (Diffusion, "prediction_type", PARAMETERIZATIONS),
        (Diffusion, "timestep_sampling", TIMESTEP_SAMPLING),
        (Diffusion, "weighting", WEIGHTINGS),
        (Model, "kind", MODELS),
        (Optim, "lr_schedule", LR_SCHEDULES),
        (Sampler, "grid", GRIDS),
        (Sampler, "solver", SOLVERS),
    ],
)
def test_every_choice_is_implemented_and_every_implementation_offered(section, key, known):
    assert set(get_args(section.model_fields[key].annotation)) == set(known)
