"""denoising-diffusion-pytorch, by its own trainer; needs that package and nothing of this project.

python benchmarks/peers/lucidrains.py NET BATCH PRECISION CLOCK     see turns.py
"""

import sys
import tempfile
from itertools import repeat
from pathlib import Path
from unittest.mock import MagicMock

import torch
from turns import CHANNELS, SIDE, given, take_turns

sys.modules["torchvision"] = (
    MagicMock()
)  # imported to read and write files, which nothing here does
from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet  # noqa: E402

NETS = {"small": {"dim": 64, "dim_mults": (1, 2, 4)}}
NEVER = 10**9  # steps


def main() -> None:
    """Take turns."""
    net, batch, bf16, clock = given()
    layout = torch.channels_last if bf16 else torch.contiguous_format
    unet = Unet(**NETS[net]).to(memory_format=layout)
    diffusion = GaussianDiffusion(unet, image_size=SIDE, sampling_timesteps=1)
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(100):  # it wants to see as many, and would open them later
            Path(scratch, f"{number}.png").touch()
        trainer = Trainer(
            diffusion,
            scratch,
            train_batch_size=batch,
            save_and_sample_every=NEVER,
            results_folder=scratch,
            calculate_fid=False,
            amp=bf16,
            mixed_precision_type="bf16",
        )
    trainer.dl = repeat(torch.rand(batch, CHANNELS, SIDE, SIDE).to(memory_format=layout))
    average = trainer.ema.ema_model.eval()

    def train(steps: int) -> None:
        trainer.train_num_steps = trainer.step + steps
        trainer.train()

    def draw(evaluations: int) -> None:
        average.sampling_timesteps = evaluations
        with torch.inference_mode(), trainer.accelerator.autocast():
            average.sample(batch_size=batch)

    take_turns(unet, train, draw, clock)


if __name__ == "__main__":
    main()
