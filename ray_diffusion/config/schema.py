"""What a run is: every key, its default, its bounds and its meaning.

Defaults describe the smallest complete run, class-conditional digits on a laptop. Progress is
counted in images seen, so that it survives a change of batch size or of workers. Keys marked
``MAY_CHANGE`` say where or how fast a run goes, not what it learns: they may differ when it is
continued.

To add a key, add one field here with a default, bounds and a description that names the unit.
"""

from typing import Annotated, Literal

from pydantic import ByteSize, Field

from ray_diffusion.config.autoencoder import Autoencoder
from ray_diffusion.config.diffusion import Diffusion, Sampler
from ray_diffusion.config.effort import Cluster, Training
from ray_diffusion.config.values import (
    MAY_CHANGE,
    Bool,
    Count,
    Float,
    Fraction,
    Int,
    Name,
    StorageOptions,
    Text,
    Values,
)


class Run(Values):
    """Which run this is and where it is kept."""

    name: Name = Field(
        default="digits", description="Names the run's directory below run.storage_url."
    )
    seed: Int = Field(
        default=0, ge=0, le=2**31 - 1, description="Seed of the weights, the noise and the order."
    )
    storage_url: Text = Field(
        default="runs",
        min_length=1,
        description="Where runs are kept: a local path or any fsspec URL, such as s3://bucket/runs.",
        json_schema_extra=MAY_CHANGE,
    )
    storage_options: StorageOptions = Field(
        default=(),
        description="Settings of storage clients, as PROTOCOL.OPTION=VALUE, such as "
        "s3.endpoint_url=http://minio:9000; credentials belong into the environment.",
        json_schema_extra=MAY_CHANGE,
    )
    init_from: Text | None = Field(
        default=None,
        min_length=1,
        description="Where the first weights come from: a run, a checkpoint or an exported model, "
        "by path or URL, or models:/NAME@ALIAS in MLflow; null: random ones.",
    )
    init_weights: Literal["ema", "raw"] = Field(
        default="ema", description="Which weights of run.init_from: averaged, or as trained."
    )
    allow: tuple[Text, ...] = Field(
        default=(),
        description="Keys that may differ from those the run was started with, such as optim.lr; "
        "data.dataset_url also lets it go on with changed data.",
        json_schema_extra=MAY_CHANGE,
    )

    @property
    def url(self) -> str:
        """The run's directory."""
        return f"{self.storage_url}/{self.name}"


class Data(Values):
    """What is trained on."""

    dataset_url: Text = Field(
        default="builtin:digits",
        min_length=1,
        description="A packed dataset's directory or URL, or the name of an embedded source.",
    )
    mixture_urls: tuple[Text, ...] = Field(
        default=(), description="Further datasets whose training images are mixed in."
    )
    mixture_weights: tuple[Annotated[Float, Field(gt=0)], ...] = Field(
        default=(),
        description="How often an image comes from data.dataset_url, then from each of "
        "data.mixture_urls, relative to each other; empty: by their numbers of images.",
    )
    image_size: Int = Field(
        default=8,
        ge=4,
        le=1024,
        description="Height and width in pixels; where latents are trained on, of their images.",
    )
    codec: Text | None = Field(
        default=None,
        min_length=1,
        description="Fingerprint of the codec whose latents are trained on; null: as the dataset "
        "says, none if it holds images.",
    )
    latent_size: Int | None = Field(
        default=None, ge=1, le=1024, description="Height and width of latents; null: likewise."
    )
    global_batch_size: Int = Field(
        default=128, ge=1, description="Images in one step, over all workers together."
    )
    horizontal_flip: Bool = Field(
        default=False, description="Mirror every other training image, chosen at random."
    )
    cache_bytes: ByteSize = Field(
        default=ByteSize(10 * 2**30),
        ge=64 * 2**20,
        description="Most local disk that shards fetched from dataset_url may take.",
        json_schema_extra=MAY_CHANGE,
    )
    workers: Int = Field(
        default=0,
        ge=0,
        description="Processes per training worker that read and decode ahead; 0: none. Shards "
        "are fetched ahead in any case.",
        json_schema_extra=MAY_CHANGE,
    )
    corrupt_policy: Literal["fail", "substitute", "mask"] = Field(
        default="fail",
        description="What becomes of an image that cannot be decoded: the run ends, the next good "
        "one of its shard takes its place, or it gets no weight.",
        json_schema_extra=MAY_CHANGE,
    )
    max_corrupt: Fraction = Field(
        default=0.001,
        description="Share of such images beyond which the run ends in any case.",
        json_schema_extra=MAY_CHANGE,
    )

    @property
    def side(self) -> int:
        """Height and width of what the network sees: of latents, if it is trained on them."""
        return self.latent_size or self.image_size


class Model(Values):
    """The network."""

    kind: Literal["unet", "tutorial_unet", "dit", "tiny", "autoencoder"] = Field(
        default="unet",
        description="Architecture of the network; autoencoder is no diffusion model: it learns a "
        "codec, whose latents others are trained on.",
    )
    channels: Int = Field(
        default=32, ge=8, description="Channels at full resolution, or of each token of dit."
    )
    channel_mults: tuple[Count, ...] = Field(
        default=(1, 2),
        min_length=1,
        description="Channels of each level of a U-Net or autoencoder, in multiples of "
        "model.channels; each further level halves the resolution.",
    )
    blocks_per_level: Int = Field(
        default=2, ge=1, description="Residual blocks in each level of unet and autoencoder."
    )
    attention_levels: tuple[Annotated[Int, Field(ge=0)], ...] = Field(
        default=(1,), description="Levels of unet with self-attention; 0 is full resolution."
    )
    dropout: Fraction = Field(
        default=0.0, description="Share of its activations that unet drops while it trains."
    )
    depth: Int = Field(default=6, ge=1, description="Transformer blocks of dit.")
    patch_size: Int = Field(
        default=2,
        ge=1,
        description="Side of the squares that are the tokens of dit, and that autoencoder takes "
        "for its pixels at full resolution.",
    )
    latent_channels: Int = Field(
        default=4, ge=1, le=64, description="Channels of the latents of autoencoder."
    )
    image_channels: Int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="Channels of an image, or of a latent; null: as the dataset has.",
    )
    num_classes: Annotated[Int, Field(ge=0)] | None = Field(
        default=None, description="Classes; null takes the dataset's, 0 trains without classes."
    )
    class_dropout_prob: Fraction = Field(
        default=0.1, description="Probability that a label is hidden, for classifier-free guidance."
    )

    @property
    def learns_codec(self) -> bool:
        """Whether it is no diffusion model but an autoencoder."""
        return self.kind == "autoencoder"

    @property
    def latent_factor(self) -> int:
        """How many times shorter the sides of an autoencoder's latents are than an image's."""
        factor: int = self.patch_size * 2 ** (len(self.channel_mults) - 1)
        return factor


class Optim(Values):
    """How the weights are updated (AdamW)."""

    lr: Float = Field(default=1e-3, gt=0, description="Learning rate once the warm-up is over.")
    weight_decay: Float = Field(default=1e-3, ge=0, description="Decoupled weight decay.")
    betas: tuple[Fraction, Fraction] = Field(
        default=(0.9, 0.99), description="Decay per step of the gradient's two running moments."
    )
    lr_schedule: Literal["constant", "cosine", "linear"] = Field(
        default="cosine", description="Course of the learning rate after the warm-up."
    )
    warmup_images: Int = Field(
        default=0, ge=0, description="Images over which the learning rate rises from 0."
    )
    grad_clip: Float = Field(default=1.0, gt=0, description="Largest global gradient norm.")


class Ema(Values):
    """The moving average of the weights that images are made with."""

    decay: Fraction = Field(default=0.995, description="Share of the average kept at each step.")
    warmup_steps: Int = Field(
        default=10,
        ge=1,
        description="The decay at step n is min(ema.decay, (1 + n) / (warmup_steps + n)).",
    )


class Tracking(Values):
    """Where metrics go."""

    uri: Text | None = Field(
        default=None,
        description="MLflow server or store; null takes MLFLOW_TRACKING_URI, "
        "else a SQLite file below run.storage_url.",
        json_schema_extra=MAY_CHANGE,
    )
    experiment: Text = Field(
        default="ray_diffusion",
        min_length=1,
        description="MLflow experiment that the run belongs to.",
        json_schema_extra=MAY_CHANGE,
    )
    registered_model: Name | None = Field(
        default=None,
        description="Register the finished model under this name; null: not until it is promoted.",
        json_schema_extra=MAY_CHANGE,
    )
    metrics_port: Annotated[Int, Field(ge=0, le=65_535)] | None = Field(
        default=None,
        description="Port of the head node where Prometheus finds metrics, 0 for none; null: 9095 "
        "on a running cluster, none on one that the command starts itself.",
        json_schema_extra=MAY_CHANGE,
    )


class Config(Values):
    """Everything that defines one training run."""

    run: Run = Field(default_factory=Run)
    data: Data = Field(default_factory=Data)
    diffusion: Diffusion = Field(default_factory=Diffusion)
    model: Model = Field(default_factory=Model)
    autoencoder: Autoencoder = Field(default_factory=Autoencoder)
    optim: Optim = Field(default_factory=Optim)
    ema: Ema = Field(default_factory=Ema)
    training: Training = Field(default_factory=Training)
    cluster: Cluster = Field(default_factory=Cluster)
    tracking: Tracking = Field(default_factory=Tracking)
    sampler: Sampler = Field(default_factory=Sampler)
