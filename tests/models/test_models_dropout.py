import pytest
import torch
from test_models_build import configured, inputs, trained

from ray_diffusion.config import Config
from ray_diffusion.models.build import build
from ray_diffusion.models.dropout import dropout_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run() -> Config:
    return configured(**{"model.dropout": 0.5})


@pytest.fixture(scope="module")
def network(run: Config) -> torch.nn.Module:
    return trained(run).train()


def predict(network: torch.nn.Module, run: Config, *name: int) -> torch.Tensor:
    with dropout_of("dropout", *name, device=CPU):
        return network(*inputs(run))


def test_what_is_dropped_follows_from_the_name_alone(network: torch.nn.Module, run: Config):
    first = predict(network, run, 0, 128)
    torch.rand(17)
    assert predict(network, run, 0, 128).equal(first)
    for other in ((0, 256), (1, 128), (0, 128, 1)):
        assert not predict(network, run, *other).equal(first)


def test_torchs_own_generator_is_left_as_it_was(network: torch.nn.Module, run: Config):
    before = torch.get_rng_state()
    predict(network, run, 0)
    assert torch.get_rng_state().equal(before)
    with pytest.raises(RuntimeError, match="size"), dropout_of("dropout", device=CPU):
        torch.rand(3) @ torch.rand(4)
    assert torch.get_rng_state().equal(before)


def test_nothing_is_dropped_after_training(network: torch.nn.Module, run: Config):
    plain = build(configured())
    plain.load_state_dict(network.state_dict())
    network.eval()
    assert network(*inputs(run)).equal(plain(*inputs(run)))
    network.train()
    assert not predict(network, run, 0).equal(plain(*inputs(run)))


def test_a_network_without_dropout_draws_nothing_while_it_trains():
    plain, before = build(configured(), seed=0), torch.get_rng_state()
    plain(*inputs(configured()))
    assert torch.get_rng_state().equal(before)


def test_dropout_keeps_the_mean_of_the_activations():
    layer, ones = torch.nn.Dropout(0.1), torch.ones(100_000)
    with dropout_of("mean", device=CPU):
        kept = layer(ones)
    share = float((kept > 0).float().mean())
    assert abs(share - 0.9) < 4 * (0.09 / 100_000) ** 0.5  # z = 4
    assert kept[kept > 0].unique().tolist() == pytest.approx([1 / 0.9])
