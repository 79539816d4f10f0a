"""This project among its peers: the step of its trainer, and its sampler.

python benchmarks/peers/ours.py NET BATCH PRECISION CLOCK     see turns.py
"""

import numpy as np
import torch
from turns import CHANNELS, SIDE, given, take_turns

from ray_diffusion import config as configs
from ray_diffusion.config import Config
from ray_diffusion.data.reader import Batch, Dataset
from ray_diffusion.models.codecs.space import Pixels
from ray_diffusion.models.draw import draw as draw_images
from ray_diffusion.training.denoising import Denoising
from ray_diffusion.training.state import initial_state
from ray_diffusion.training.step import train_step

NETS = {
    "small": {
        "model.channels": 64,
        "model.channel_mults": (1, 2, 3),
        "model.attention_levels": (2,),
    },
    "cifar10": {
        "model.channels": 128,
        "model.channel_mults": (1, 2, 2, 2),
        "model.attention_levels": (1,),
    },
}


def main() -> None:
    """Take turns."""
    net, batch, bf16, clock = given()
    precision = "bf16" if bf16 else "fp32"
    config = configs.override(
        Config(),
        {
            "data.image_size": SIDE,
            "data.global_batch_size": batch,
            "model.image_channels": CHANNELS,
            "model.num_classes": 0,
            "training.precision": precision,
            "sampler.precision": precision,
            "sampler.solver": "ddim",
            **NETS[net],
        },
    )
    state = initial_state(config, torch.device("cpu"))
    val = Dataset("builtin:digits", "val", 8, config.data.cache_bytes)  # of which nothing is read
    task = Denoising(config, torch.device("cpu"), val, Pixels())
    images = torch.randint(256, (batch, CHANNELS, SIDE, SIDE), dtype=torch.uint8)
    layout, labels = torch.channels_last, torch.zeros(batch, dtype=torch.int64)
    examples = Batch(
        images.to(memory_format=layout), labels, torch.ones(batch), np.arange(batch), bad=0
    )

    def train(steps: int) -> None:
        for _ in range(steps):
            train_step(state, examples, task)

    def draw(evaluations: int) -> None:
        walk = configs.override(config, {"sampler.num_inference_steps": evaluations})
        draw_images(state.average, walk, Pixels(), labels, seed=0)

    take_turns(state.network, train, draw, clock)


if __name__ == "__main__":
    main()
