from collections.abc import Iterator, Sequence

import pytest
import torch
from toy import CPU
from two_workers import awake, val_loss

from ray_diffusion import config
from ray_diffusion.config import Config
from ray_diffusion.data.reader import Batch, Dataset
from ray_diffusion.diffusion.profile import PROFILE_LEVELS
from ray_diffusion.models.codecs.space import Pixels
from ray_diffusion.models.draw import logsnr_table
from ray_diffusion.training import validation
from ray_diffusion.training.denoising import Denoising
from ray_diffusion.training.state import initial_state
from ray_diffusion.training.task import Found
from ray_diffusion.training.validation import errors_at, validation_loss


@pytest.fixture
def val(run: Config) -> Iterator[Dataset]:
    data = run.data
    dataset = Dataset(data.dataset_url, "val", data.image_size, data.cache_bytes)
    yield dataset
    dataset.close()


def test_the_same_weights_have_the_same_loss_each_time(run: Config):
    assert val_loss(run) == val_loss(run)


def test_the_loss_does_not_depend_on_how_examples_are_batched(
    run: Config, monkeypatch: pytest.MonkeyPatch
):
    expected = val_loss(run)
    monkeypatch.setattr(validation, "BATCH", 7)
    assert val_loss(run) == pytest.approx(expected, rel=1e-6)


def test_the_loss_does_not_depend_on_the_seed_of_the_run(run: Config, val: Dataset):
    network, table = awake(run), logsnr_table(run)
    other = config.override(run, {"run.seed": 5})
    losses = [validation_loss(network, val, which, Pixels(), table) for which in (run, other)]
    assert losses[0] == losses[1]


def test_a_silent_network_has_the_loss_of_its_target(run: Config, val: Dataset):
    run = config.override(run, {"diffusion.prediction_type": "epsilon"})
    loss = validation_loss(initial_state(run, CPU).average, val, run, Pixels(), logsnr_table(run))
    # The mean square of 100 * 64 draws of standard normal noise.
    assert abs(loss - 1) < 4 * (2 / 6400) ** 0.5


def test_validation_touches_neither_weights_nor_the_global_generator(run: Config, val: Dataset):
    network, before = awake(run), torch.get_rng_state()
    validation_loss(network, val, run, Pixels(), logsnr_table(run))
    assert torch.get_rng_state().equal(before)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_an_example_of_weight_0_is_no_matter(
    run: Config, val: Dataset, monkeypatch: pytest.MonkeyPatch
):
    network, table, at = awake(run), logsnr_table(run), val.at

    def losses(unusable: range, value: int) -> list[float]:
        """The figures where some examples have weight 0 and any image."""

        def masked(positions: Sequence[int]) -> Batch:
            batch = at(positions)
            bad = torch.isin(torch.tensor(positions), torch.tensor(unusable))
            images = torch.where(bad[:, None, None, None], value, batch.images)
            return batch._replace(images=images.byte(), weights=1 - bad.float())

        monkeypatch.setattr(val, "at", masked)
        errors = errors_at([0], network, val, run, Pixels(), hidden=False)
        return [validation_loss(network, val, run, Pixels(), table), *errors.tolist()]

    odd, even, nothing = range(1, len(val), 2), range(0, len(val), 2), range(0)
    assert losses(odd, 0) == losses(odd, 255)
    assert losses(even, 0) == losses(even, 255)
    mean = [(a + b) / 2 for a, b in zip(losses(odd, 0), losses(even, 0), strict=True)]
    assert mean == pytest.approx(losses(nothing, 0), rel=1e-9)


@pytest.mark.parametrize(("classes", "columns"), [(0, 10), (3, 3), (10, 10), (40, 10)])
def test_previews_show_a_class_in_each_column(
    run: Config, val: Dataset, classes: int, columns: int
):
    run = config.override(run, {"model.num_classes": classes})
    state = initial_state(run, CPU)
    networks = {"ema": state.average, "raw": state.network}
    task = Denoising(run, CPU, val, Pixels())
    sheets = task.previews(networks, Found({}, [0.0] * len(PROFILE_LEVELS)))
    assert state.network.training  # it goes on as it was
    assert list(sheets) == ["ema", "raw"]
    for sheet in sheets.values():
        assert sheet.shape == (4 * 52, columns * 52, 3)  # 8 pixels, times 6, and 2 on each side
    assert sheets["ema"].equal(sheets["raw"])  # nothing trained yet
