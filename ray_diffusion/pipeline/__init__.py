"""Checkpoint -> images: the one thing that sampling, evaluation and serving share."""

from ray_diffusion.pipeline.drawing import BATCH, Pipeline
from ray_diffusion.pipeline.loading import CODEC, WEIGHTS, fetch, load, load_codec

__all__ = ["BATCH", "CODEC", "WEIGHTS", "Pipeline", "fetch", "load", "load_codec"]
