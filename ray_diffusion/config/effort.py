"""The sections ``training`` and ``cluster``: how long a run trains, and on what."""

from typing import Annotated, Final, Literal

from pydantic import Field

from ray_diffusion.config.values import (
    MAY_CHANGE,
    Bool,
    Count,
    Float,
    Int,
    Text,
    Values,
)

# Checkpoint directories carry the count of images in 12 digits.
MOST_IMAGES: Final = 10**12 - 1


class Training(Values):
    """How long to train, and what to write on the way."""

    total_images: Count = Field(
        default=64_000, le=MOST_IMAGES, description="Count seen in the whole run."
    )
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="Arithmetic of the forward pass; weights stay fp32."
    )
    micro_batch_size: Count | None = Field(
        default=None,
        description="Most images that a worker holds in one forward pass, its gradients added up "
        "over several; null: its whole part of the global batch.",
        json_schema_extra=MAY_CHANGE,
    )
    activation_checkpointing: Bool = Field(
        default=False,
        description="Compute activations again in the backward pass instead of keeping them: less "
        "memory, about a third more time.",
        json_schema_extra=MAY_CHANGE,
    )
    compile: Bool = Field(
        default=False,
        description="Compile the network: all of it on a GPU, block by block on a CPU.",
        json_schema_extra=MAY_CHANGE,
    )
    log_every_images: Count = Field(default=2_560, description="Count between points of metrics.")
    checkpoint_every_images: Count = Field(
        default=16_000, description="Count between checkpoints.", json_schema_extra=MAY_CHANGE
    )
    validate_every_images: Count = Field(default=16_000, description="Count between validations.")
    max_nonfinite_steps: Int = Field(
        default=10,
        ge=0,
        description="Steps in a row whose loss or gradient is not finite, and which therefore "
        "change nothing, before the run ends.",
        json_schema_extra=MAY_CHANGE,
    )
    keep_checkpoints: Int = Field(
        default=2, ge=1, description="Newest checkpoints to keep.", json_schema_extra=MAY_CHANGE
    )
    keep_best_checkpoints: Int = Field(
        default=1,
        ge=0,
        description="Checkpoints with the lowest val/score to keep beside the newest.",
        json_schema_extra=MAY_CHANGE,
    )
    keep_every_images: Count | None = Field(
        default=None,
        description="Keep for good the first checkpoint after each multiple of so many images.",
        json_schema_extra=MAY_CHANGE,
    )


class Cluster(Values):
    """What the run asks of the Ray cluster."""

    num_workers: Count | tuple[Count, Count] = Field(
        default=1,
        description="Training processes; [LEAST, MOST]: as many as the cluster has room for, "
        "decided again whenever they are restarted and each time nodes join.",
        json_schema_extra=MAY_CHANGE,
    )
    strategy: Literal["ddp", "fsdp"] = Field(
        default="ddp",
        description="Whether each worker keeps all weights, or a share of them (FSDP2).",
        json_schema_extra=MAY_CHANGE,
    )
    use_gpu: Bool = Field(
        default=False, description="Give each worker one GPU.", json_schema_extra=MAY_CHANGE
    )
    cpus_per_worker: Count | None = Field(
        default=None,
        description="CPUs of each worker; null shares the cluster's evenly.",
        json_schema_extra=MAY_CHANGE,
    )
    max_failures: Int = Field(
        default=3,
        ge=0,
        description="Restarts of the worker group before the run fails.",
        json_schema_extra=MAY_CHANGE,
    )
    stall_timeout_s: Float = Field(
        default=300,
        gt=0,
        description="Seconds without a step after which a worker writes down what it was doing "
        "and the group is restarted. Never less than 5 usual steps; three times as long at the "
        "start, at validations and at checkpoints.",
        json_schema_extra=MAY_CHANGE,
    )
    peak_tflops: Annotated[Float, Field(gt=0)] | None = Field(
        default=None,
        description="Peak of a worker's device in training.precision, for train/mfu; null: as a "
        "matrix product reaches it there.",
        json_schema_extra=MAY_CHANGE,
    )
    forward_env: tuple[Text, ...] = Field(
        default=(),
        description="Environment variables that workers on other machines get from the driver, by "
        "name, such as AWS_SECRET_ACCESS_KEY; their values are written nowhere.",
        json_schema_extra=MAY_CHANGE,
    )

    @property
    def least_workers(self) -> int:
        """Fewer training processes than this do not start."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def most_workers(self) -> int:
        """The training processes that the run is meant for."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]
