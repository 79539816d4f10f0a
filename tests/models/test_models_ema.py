import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ray_diffusion.models import ema


def filled(value: float) -> nn.Module:
    """A network with a buffer, all weights at one value."""
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).double()
    for parameter in network.parameters():
        nn.init.constant_(parameter, value)
    return network


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 0.995])
def test_after_n_updates_the_start_has_weight_decay_to_the_n(decay: float):
    average, network = ema.average_of(filled(1.0)), filled(0.0)
    for _ in range(20):
        ema.update(average, network, decay)
    for parameter in average.parameters():
        torch.testing.assert_close(parameter, torch.full_like(parameter, decay**20))


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=10))
def test_a_path_of_weights_is_averaged_with_geometric_weights(path: list[float]):
    average = ema.average_of(filled(path[0]))
    for value in path[1:]:
        ema.update(average, filled(value), 0.8)
    n = len(path) - 1
    expected = 0.8**n * path[0] + sum(0.2 * 0.8 ** (n - k) * path[k] for k in range(1, n + 1))
    assert next(average.parameters())[0, 0].item() == pytest.approx(expected, abs=1e-12)


def test_an_average_is_a_frozen_copy_in_evaluation_mode():
    network = filled(1.0)
    average = ema.average_of(network)
    nn.init.zeros_(next(network.parameters()))
    assert next(average.parameters()).eq(1).all()
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert not average.training
    assert network.training


def test_buffers_are_copied_not_averaged():
    average, network = ema.average_of(filled(1.0)), filled(1.0)
    network[1].running_mean.fill_(5.0)
    network[1].num_batches_tracked.fill_(7)
    ema.update(average, network, 0.9)
    assert average[1].running_mean.tolist() == [5, 5]
    assert average[1].num_batches_tracked == 7


def test_the_warm_up_rises_from_one_over_its_steps_to_the_decay():
    assert ema.decay_at(0, 0.995, 10) == 0.1
    assert ema.decay_at(9, 0.995, 10) == 10 / 19
    assert ema.decay_at(10**6, 0.995, 10) == 0.995


def test_the_decay_is_final_after_as_many_updates_as_its_docstring_says():
    final = round((10 * 0.995 - 1) / (1 - 0.995))  # 1790
    assert ema.decay_at(final - 1, 0.995, 10) < 0.995
    assert ema.decay_at(final + 1, 0.995, 10) == 0.995


@given(st.integers(0, 10**6), st.floats(0, 1, exclude_max=True), st.integers(1, 10**4))
def test_the_decay_never_falls_and_stays_below_its_end(step: int, decay: float, warmup: int):
    now = ema.decay_at(step, decay, warmup)
    assert 0 <= now <= ema.decay_at(step + 1, decay, warmup) <= decay


def test_without_a_warm_up_the_decay_is_final_from_the_start():
    assert ema.decay_at(0, 0.9, 1) == 0.9


def tracked(path: torch.Tensor, gamma: float) -> list[float]:
    """The power average of a path of weights, after each update."""
    average, found = 0.0, []
    for step, value in enumerate(path.tolist()):
        average += (1 - ema.power_decay_at(step, gamma)) * (value - average)
        found.append(average)
    return found


@given(st.floats(0.01, 0.28))
def test_the_power_gives_the_width_back(width: float):
    gamma = ema.power_of(width)
    assert gamma >= 0.1
    share = torch.distributions.Beta(gamma + 1, 1.0)
    assert float(share.stddev) == pytest.approx(width, rel=1e-4)


@pytest.mark.parametrize("gamma", [0.5, 6.94, 16.97])
def test_a_power_average_weighs_each_update_by_its_share_of_the_power(gamma: float):
    n = 50
    for k in (0, 1, 20, 49):
        path = torch.zeros(n)
        path[k] = 1.0
        share = ((k + 1) / n) ** (gamma + 1) - (k / n) ** (gamma + 1)
        assert tracked(path, gamma)[-1] == pytest.approx(share, rel=1e-9)


def test_the_widths_of_the_paper_have_its_powers():
    assert [round(ema.power_of(width), 2) for width in (0.05, 0.10)] == [16.97, 6.94]


def test_an_average_that_was_kept_is_reconstructed_from_itself():
    kept = [ema.PowerAverage(gamma, steps) for steps in (40, 80, 100) for gamma in (16.97, 6.94)]
    for i, wanted in enumerate(kept):
        shares = ema.reconstruct(kept, wanted)
        assert shares.tolist() == pytest.approx([float(i == j) for j in range(6)], abs=1e-6)


@pytest.mark.parametrize("width", [0.06, 0.075, 0.09, 0.15])
def test_any_width_is_reconstructed_from_two_that_were_tracked(width: float):
    n, gammas = 2000, (ema.power_of(0.05), ema.power_of(0.10))
    time = torch.arange(1, n + 1, dtype=torch.float64) / n
    path = torch.exp(-3 * time) + 0.2 * torch.sin(9 * time)  # a course of weights, known
    tracks = {gamma: tracked(path, gamma) for gamma in gammas}
    kept = [ema.PowerAverage(gamma, steps) for steps in range(100, n + 1, 100) for gamma in gammas]
    shares = ema.reconstruct(kept, ema.PowerAverage(ema.power_of(width), n))
    found = sum(
        share * tracks[average.gamma][int(average.steps) - 1]
        for share, average in zip(shares.tolist(), kept, strict=True)
    )
    exact = tracked(path, ema.power_of(width))[-1]
    assert abs(exact - tracks[gammas[0]][-1]) > 1e-3  # it is not what was tracked
    assert found == pytest.approx(exact, abs=1e-4)
    assert float(shares.sum()) == pytest.approx(1, abs=1e-3)
