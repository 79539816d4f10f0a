"""What a diffusion model learns: to take noise off images, or off their latents."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ray_diffusion.config import Config
from ray_diffusion.data.reader import Batch, Dataset
from ray_diffusion.diffusion.family import FAMILIES
from ray_diffusion.diffusion.levels import Draw, draw_levels
from ray_diffusion.diffusion.objective import denoising_loss, drop_condition
from ray_diffusion.diffusion.profile import PROFILE_LEVELS, SCORE_LEVELS, score, vlb_bpd
from ray_diffusion.diffusion.random import Draws, generator
from ray_diffusion.models.codecs.space import Space
from ray_diffusion.models.draw import draw, logsnr_table
from ray_diffusion.models.pixels import contact_sheet
from ray_diffusion.training.task import Found
from ray_diffusion.training.validation import errors_at, objective_of, validation_loss

PREVIEW_ROWS = 4
PREVIEW_COLUMNS = 10


class Denoising:
    """The task of diffusion models; see ``Task``.

    Args:
        config: The run's resolved configuration.
        device: Where it trains.
        val: The validation split.
        space: What the network works on.
    """

    def __init__(self, config: Config, device: torch.device, val: Dataset, space: Space) -> None:
        self.config, self.device = config, device
        self._val, self._space = val, space
        self._table = logsnr_table(config).to(device)

    def losses(self, network: nn.Module, batch: Batch, places: range, images_seen: int) -> Tensor:
        """See ``Task``."""
        config, device = self.config, self.device
        name = config.run.seed, images_seen
        draws = Draws("step", *name, places=places, device=device)

        def within_latents(*shape: int) -> Tensor:
            return Draws("latents", *name, places=places, device=device).normal(*shape)

        x0 = self._space.x0(batch.images.to(device, non_blocking=True), within_latents)
        noise = draws.normal(*x0.shape[1:])
        levels = draw_levels(
            config.diffusion.timestep_sampling,
            self._table,
            FAMILIES[config.diffusion.family].continuous,
            Draw(
                draws,
                generator("step of all", *name, device=device),
                config.data.global_batch_size,
            ),
        )
        null, probability = config.model.num_classes, config.model.class_dropout_prob
        assert null is not None
        labels = batch.labels if null else torch.zeros_like(batch.labels)
        condition = drop_condition(
            labels.to(device, non_blocking=True), null, probability, draws.uniform()
        )
        return denoising_loss(network, x0, condition, levels, noise, objective_of(config))

    def validate(self, average: nn.Module) -> Found:
        """See ``Task``.

        Args:
            average: A network that each worker may call on its own.

        Returns:
            ``val/loss``; ``val/score``; ``val/vlb_bpd``; and where classes may be hidden the
            score without them, ``val/score_uncond``.
        """
        config, val, space = self.config, self._val, self._space
        profile = errors_at(PROFILE_LEVELS, average, val, config, space, hidden=False)
        loss = validation_loss(average, val, config, space, self._table)
        found = {"val/loss": loss, "val/score": score(profile), "val/vlb_bpd": vlb_bpd(profile)}
        if config.model.num_classes and config.model.class_dropout_prob:
            errors = errors_at(SCORE_LEVELS, average, val, config, space, hidden=True)
            found["val/score_uncond"] = float(errors.mean())
        return Found(found, profile.tolist())

    def previews(self, networks: Mapping[str, nn.Module], found: Found) -> dict[str, Tensor]:
        """What networks draw now, a class per column; see ``Task``."""
        classes = self.config.model.num_classes
        columns = min(classes or PREVIEW_COLUMNS, PREVIEW_COLUMNS)
        labels = torch.arange(columns) if classes else torch.zeros(columns).long()
        labels, profile = labels.repeat(PREVIEW_ROWS), torch.tensor(found.profile).double()
        sheets = {}
        for name, network in networks.items():
            training = network.training
            images = draw(network.eval(), self.config, self._space, labels, seed=0, profile=profile)
            network.train(training)
            sheets[name] = contact_sheet(images, columns)
        return sheets
