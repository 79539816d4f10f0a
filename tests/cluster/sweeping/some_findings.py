"""Findings of sweeps of trials of 1,000 images, and a clock that is set."""

from collections.abc import Mapping
from typing import Any

from ray_diffusion.cluster.sweeping.findings import Findings
from ray_diffusion.cluster.sweeping.journal import Trial
from ray_diffusion.config import Config, override
from ray_diffusion.config.space import Parameter
from ray_diffusion.config.sweep import Plan, Sweep
from ray_diffusion.storage import Directory

TOTAL_IMAGES = 1_000
SPACE = {
    "diffusion.beta_schedule": Parameter(values=("linear", "cosine")),
    "optim.lr": Parameter(min=1e-4, max=1e-2, distribution="log_uniform"),
}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def trial(
    number: int,
    state: Any = "running",
    curve: Mapping[int, float] | None = None,
    values: Mapping[str, Any] | None = None,
    **more: Any,
) -> Trial:
    """A trial of the search."""
    values = {"optim.lr": 0.001} if values is None else values
    return Trial(f"trial-{number:04d}", values, state=state, curve=dict(curve or {}), **more)


def findings(
    *trials: Trial,
    seconds: float = 0.0,
    space: Mapping[str, Parameter] = SPACE,
    verdict: Any = None,
    **sweep: Any,
) -> Findings:
    """What a sweep of eight trials has found."""
    base = override(
        Config(), {"training.total_images": TOTAL_IMAGES, "optim.warmup_images": TOTAL_IMAGES // 10}
    )
    plan = Plan(Sweep.model_validate({"name": "lr", "run_cap": 8} | sweep), space, base)
    command = "python -m ray_diffusion.sweep lr.yaml"
    return Findings(plan, Directory("memory://runs/lr"), trials, verdict, seconds, command)
