"""How probable a model finds the validation images, as figures."""

import torch

from ray_diffusion.data.reader import Dataset
from ray_diffusion.diffusion.denoiser import Denoiser
from ray_diffusion.diffusion.likelihood import discrete_vlb, ode_bpd
from ray_diffusion.evaluation.figures import Figure
from ray_diffusion.models.pixels import encode

MOST_IMAGES = 128  # evenly spread over the split; the mean's standard error is some per cent
# The same for every model, whatever its schedule: between other ends are other numbers.
NOISIEST, CLEANEST = -10, 9
CHAIN_LEVELS, FLOW_LEVELS = 100, 50
SEED = 0  # of the noise: the same for every model

MEANINGS = {
    "likelihood/vlb_bpd": "bits per dimension of validation images, by the chain",
    "likelihood/prior_bpd": "of it for the noisiest level",
    "likelihood/steps_bpd": "of it for the steps",
    "likelihood/decoder_bpd": "of it from the cleanest level to pixels",
    "likelihood/flow_bpd": "bits per dimension, by the probability flow",
}


def likelihood(
    denoiser: Denoiser, val: Dataset, classes: bool, device: torch.device, flow: bool
) -> dict[str, Figure]:
    """Bits per dimension of validation images.

    Args:
        denoiser: The model, neither guided nor clipped, with the variance its chain shall have.
        val: The validation split.
        classes: Whether the model is told the classes.
        device: Where the model lives.
        flow: Whether to measure the probability flow too, which costs five times as much.

    Returns:
        The bound of the chain of 100 steps from logsnr -10 to 9 in its parts, and the flow's.
    """
    positions = val.spread(MOST_IMAGES)
    batch = val.at(positions)
    x0, labels = encode(batch.images.to(device)), batch.labels.to(device)
    asked = labels if classes else torch.zeros_like(labels)
    levels = torch.linspace(NOISIEST, CLEANEST, CHAIN_LEVELS)
    bound = discrete_vlb(denoiser, x0, asked, levels, SEED, positions)
    values = [bound.total, *bound]
    if flow:
        along = torch.linspace(NOISIEST, CLEANEST, FLOW_LEVELS)
        values.append(ode_bpd(denoiser, x0, asked, along, SEED, positions))
    return {
        name: Figure(float(value.mean()), None, len(positions), meaning, "lower")
        for (name, meaning), value in zip(MEANINGS.items(), values, strict=False)
    }
