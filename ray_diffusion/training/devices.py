"""Settings of torch that make a device fast; of the whole process."""

import torch


def tune(device: torch.device) -> None:
    """Let a GPU take TF32 for float32 products and convolutions, and choose its kernels by trial.

    TF32 has the range of float32 and 10 bits behind the point: for what ``training.precision=fp32``
    leaves in float32 on a GPU that is enough, and several times as fast. A CPU has no such
    settings, so its results stay the same to the bit.

    Args:
        device: Where this process trains.
    """
    if device.type == "cuda":
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        torch.backends.cudnn.conv.fp32_precision = "tf32"  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = True
