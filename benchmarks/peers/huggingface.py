"""diffusers, trained as its unconditional example does; needs it and nothing of this project.

python benchmarks/peers/huggingface.py NET BATCH PRECISION CLOCK     see turns.py
"""

import copy

import torch
from accelerate import Accelerator
from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from turns import CHANNELS, SIDE, given, take_turns

DOWN, UP = ("DownBlock2D", "AttnDownBlock2D"), ("UpBlock2D", "AttnUpBlock2D")
NETS = {
    "small": {
        "block_out_channels": (64, 128, 192),
        "down_block_types": (DOWN[0], DOWN[0], DOWN[1]),
        "up_block_types": (UP[1], UP[0], UP[0]),
    },
    "cifar10": {  # google/ddpm-cifar10-32
        "block_out_channels": (128, 256, 256, 256),
        "down_block_types": (DOWN[0], DOWN[1], DOWN[0], DOWN[0]),
        "up_block_types": (UP[0], UP[0], UP[1], UP[0]),
        "attention_head_dim": None,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
    },
}


def main() -> None:
    """Take turns."""
    net, batch, bf16, clock = given()
    layout = torch.channels_last if bf16 else torch.contiguous_format
    unet = UNet2DModel(sample_size=SIDE, layers_per_block=2, **NETS[net]).to(memory_format=layout)
    accelerator = Accelerator(mixed_precision="bf16" if bf16 else "no")
    noiser = DDPMScheduler()
    optimizer = torch.optim.AdamW(
        unet.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6
    )
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=500, num_training_steps=10_000)
    model, optimizer, schedule = accelerator.prepare(unet, optimizer, schedule)
    average = EMAModel(unet.parameters(), decay=0.9999, use_ema_warmup=True, power=0.75)
    x0 = torch.rand(batch, CHANNELS, SIDE, SIDE).to(memory_format=layout) * 2 - 1

    def train(steps: int) -> None:
        model.train()
        for _ in range(steps):
            noise = torch.randn_like(x0)
            timesteps = torch.randint(noiser.config.num_train_timesteps, (batch,))
            x_t = noiser.add_noise(x0, noise, timesteps)
            loss = torch.nn.functional.mse_loss(model(x_t, timesteps).sample, noise)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            average.step(unet.parameters())
            loss.item()  # for its progress bar

    averaged = copy.deepcopy(unet).eval().to(torch.bfloat16 if bf16 else torch.float32)
    pipeline = DDIMPipeline(averaged, DDIMScheduler())

    def draw(evaluations: int) -> None:
        pipeline(batch_size=batch, num_inference_steps=evaluations, output_type="np")

    take_turns(unet, train, draw, clock)


if __name__ == "__main__":
    main()
