"""Experiment orchestration for diffusion models on Ray: train, track, evaluate and sample."""

__version__ = "0.1.0"
