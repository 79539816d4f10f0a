"""The sections ``diffusion`` and ``sampler``: the way to noise, and the way back.

The names of choices are the keys of the dicts in ``ray_diffusion.diffusion``; a test holds them
together.
"""

from typing import Annotated, Literal

from pydantic import Field

from ray_diffusion.config.values import MAY_CHANGE, Bool, Float, Int, Values


class Diffusion(Values):
    """The forward process, what the network predicts, and the loss."""

    family: Literal["ddpm", "sgm", "vp_sde", "ve_sde", "sub_vp_sde"] = Field(
        default="ddpm",
        description="Framework: trained at the timesteps (ddpm, sgm) or at all levels between "
        "them (the sde's), and the coordinates its stochastic solvers step in.",
    )
    beta_schedule: Literal[
        "linear",
        "scaled_linear",
        "cosine",
        "sigmoid",
        "sigmoid_betas",
        "laplace",
        "geometric",
        "edm",
        "vp",
        "sub_vp",
        "custom",
    ] = Field(default="cosine", description="How much noise there is at each timestep.")
    num_train_timesteps: Int = Field(
        default=1000, ge=2, le=10_000, description="Timesteps T of the forward process."
    )
    beta_start: Float = Field(
        default=1e-4,
        gt=0,
        lt=1,
        description="First beta of linear, scaled_linear and sigmoid_betas.",
    )
    beta_end: Float = Field(
        default=0.02,
        gt=0,
        lt=1,
        description="Last beta of linear, scaled_linear and sigmoid_betas.",
    )
    scale_betas: Bool = Field(
        default=True,
        description="Read the betas as those of T = 1000 and multiply them by 1000/T, so that "
        "every T ends in the same noise.",
    )
    sigma_min: Float = Field(
        default=0.01, gt=0, description="Least noise-to-signal ratio of geometric and edm."
    )
    sigma_max: Float = Field(
        default=50.0, gt=0, description="Greatest noise-to-signal ratio of geometric and edm."
    )
    betas: tuple[Annotated[Float, Field(gt=0, lt=1)], ...] | None = Field(
        default=None, description="The betas of the custom schedule: a JSON list, one per timestep."
    )
    rescale_zero_terminal_snr: Bool = Field(
        default=False, description="Bend the schedule so that its last timestep is noise alone."
    )
    prediction_type: Literal["epsilon", "v_prediction", "sample", "score", "edm", "flow"] = Field(
        default="v_prediction", description="What the network predicts from a noisy image."
    )
    loss: Literal["mse", "l1", "huber"] = Field(
        default="mse", description="How far a prediction is from its target."
    )
    weighting: Literal["uniform", "vlb", "min_snr", "soft_min_snr", "p2", "edm", "sigmoid"] = Field(
        default="uniform", description="Weight of each noise level in the loss."
    )
    snr_gamma: Float = Field(
        default=5.0,
        gt=0,
        description="Signal-to-noise ratio at which min_snr and soft_min_snr cap.",
    )
    timestep_sampling: Literal["uniform", "stratified", "lognormal"] = Field(
        default="uniform",
        description="How noise levels are drawn: each alone, spread evenly over the batch, or "
        "around those that matter most to the eye.",
    )
    learn_variance: Bool = Field(
        default=False, description="Also learn the variance of the reverse steps (hybrid loss)."
    )


class Sampler(Values):
    """How images are made, unless a request says otherwise."""

    solver: Literal[
        "ddim",
        "ddpm",
        "euler",
        "heun",
        "dpmpp_2m",
        "euler_maruyama",
        "predictor_corrector",
        "langevin",
    ] = Field(default="dpmpp_2m", description="Reverse process.", json_schema_extra=MAY_CHANGE)
    num_inference_steps: Int = Field(
        default=15,
        ge=1,
        le=10_000,
        description="Network evaluations per image.",
        json_schema_extra=MAY_CHANGE,
    )
    grid: Literal["trailing", "leading", "linspace", "uniform_logsnr", "karras", "geometric"] = (
        Field(
            default="karras",
            description="Where on the schedule the steps lie.",
            json_schema_extra=MAY_CHANGE,
        )
    )
    eta: Float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Noise that ddim adds: 0 none, 1 as much as ddpm.",
        json_schema_extra=MAY_CHANGE,
    )
    variance: Literal["beta_tilde", "beta", "analytic", "learned"] = Field(
        default="beta_tilde",
        description="Variance of the steps of ddpm.",
        json_schema_extra=MAY_CHANGE,
    )
    guidance_scale: Float = Field(
        default=1.0,
        ge=0,
        description="Weight of classifier-free guidance; 1 is off.",
        json_schema_extra=MAY_CHANGE,
    )
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32",
        description="Arithmetic and weights of the network while it draws; steps stay fp32.",
        json_schema_extra=MAY_CHANGE,
    )
    clip_x0: Bool | None = Field(
        default=None,
        description="Clip each estimate of the clean image to the range of pixels; null: unless "
        "latents are drawn, which have none.",
        json_schema_extra=MAY_CHANGE,
    )
