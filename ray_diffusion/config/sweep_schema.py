"""What a sweep's file says, but for its parameters: every key, its default, bounds and meaning."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from ray_diffusion.config import presets
from ray_diffusion.config.values import Count, Float, Int, Name, Text, Values

MOST_TRIALS: Final = 10_000
"""Names of trials sort up to so many, and all are checked beforehand in a few seconds."""


def _smaller_is_better(goal: Any) -> Any:
    if goal == "maximize":
        raise ValueError("each of the metrics is better the smaller it is, so minimize is the goal")
    return goal


def _not_hyperband(rule: Any) -> Any:
    if rule == "hyperband":
        raise ValueError("its asynchronous form is here, asha, with grace and eta")
    return rule


class Metric(Values):
    """By what trials compare."""

    name: Literal[
        "val/score", "val/vlb_bpd", "val/loss", "train/loss", "sample/fd", "sample/kid"
    ] = Field(default="val/score", description="The figure; sample/... are measured at the end.")
    goal: Annotated[Literal["minimize"], BeforeValidator(_smaller_is_better)] = Field(
        default="minimize", description="Which is best: of all these figures the smallest."
    )

    @property
    def of_samples(self) -> bool:
        """Whether it is measured of drawn images, which is done at a trial's end only."""
        return self.name.startswith("sample/")


class EarlyTerminate(Values):
    """Which trials end early."""

    type: Annotated[Literal["asha", "median", "none"], BeforeValidator(_not_hyperband)] = Field(
        default="asha", description="The rule."
    )
    grace: Annotated[Float, Field(gt=0, le=1)] = Field(
        default=0.11, description="Share of training.total_images that each trial gets."
    )
    eta: Int = Field(default=3, ge=2, description="One of so many trials goes on from a rung.")


class Budget(Values):
    """What a sweep may cost, over all its launches; null: no limit."""

    hours: Annotated[Float, Field(gt=0)] | None = Field(default=None, description="On the clock.")
    gpu_hours: Annotated[Float, Field(gt=0)] | None = Field(default=None, description="Of GPUs.")


class Resources(Values):
    """What a trial gets."""

    num_workers: Count = Field(default=1, description="Training processes.")
    cpus_per_worker: Count = Field(default=1, description="CPUs of each.")
    gpus_per_worker: Annotated[Float, Field(ge=0, le=1)] = Field(
        default=0, description="GPUs of each; less than 1: trials of one worker share one."
    )
    max_concurrent: Literal["auto"] | Count = Field(
        default="auto", description="Trials at once; auto: as many as the cluster has room for."
    )

    @property
    def cluster(self) -> dict[str, Any]:
        """What a trial's configuration says of them, by dotted key."""
        return {
            "cluster.num_workers": self.num_workers,
            "cluster.cpus_per_worker": self.cpus_per_worker,
            "cluster.use_gpu": self.gpus_per_worker > 0,
        }

    def too_large(self, have: Mapping[str, float]) -> list[str]:
        """Why no trial will ever find room.

        Args:
            have: What the cluster has, by Ray's names, ``CPU`` and ``GPU``, as far as known.

        Returns:
            A line for each that is short; none if there is room.
        """
        each = {"CPU": self.cpus_per_worker, "GPU": self.gpus_per_worker}
        needs = {name: self.num_workers * amount for name, amount in each.items()}
        return [
            f"a trial needs {need:g} {name}{'s' * (need != 1)}, the cluster has {have[name]:g}"
            for name, need in needs.items()
            if need > have.get(name, math.inf)
        ]


class Confirm(Values):
    """How the best trials are tried again."""

    top: Int = Field(default=3, ge=0, description="How many of the best; 0: none.")
    seeds: Count = Field(default=2, description="With how many further seeds.")
    num_images: Int = Field(
        default=500, ge=128, description="Images drawn from each finished trial, to measure it."
    )


class Sweep(Values):
    """All of a sweep's file but for its parameters."""

    name: Name = Field(
        default="sweep",
        description="The sweep's directory below run.storage_url; without it, the file's name.",
    )
    base: Text = Field(default=presets.DEFAULT, description="Preset or FILE.yaml.")
    method: Literal["grid", "random", "bayes"] = Field(
        default="random", description="How values are chosen; bayes needs optuna."
    )
    metric: Metric = Field(default_factory=Metric)
    early_terminate: EarlyTerminate = Field(default_factory=EarlyTerminate)
    run_cap: Annotated[Count, Field(le=MOST_TRIALS)] | None = Field(
        default=None, description="Most trials; null: all of a grid."
    )
    budget: Budget = Field(default_factory=Budget)
    resources: Resources = Field(default_factory=Resources)
    confirm: Confirm = Field(default_factory=Confirm)
    seed: Int = Field(default=0, ge=0, description="Of the values that are tried.")
