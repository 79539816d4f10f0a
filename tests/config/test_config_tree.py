import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_diffusion import config
from ray_diffusion.config.schema import Config


def test_flatten_has_every_key_in_order_and_plain_values():
    flat = config.flatten(Config())
    assert list(flat) == list(config.leaves(Config))
    assert json.loads(json.dumps(flat)) == flat
    assert flat["data.cache_bytes"] == 10 * 2**30


def test_nest_is_the_inverse_of_flatten():
    assert Config.model_validate(config.nest(config.flatten(Config()))) == Config()


@given(st.dictionaries(st.from_regex(r"[ab]\.[cd]\.[ef]", fullmatch=True), st.integers()))
def test_nest_puts_every_value_at_its_path(flat: dict[str, int]):
    tree = config.nest(flat)
    found = {
        f"{a}.{b}.{c}": value
        for a, inner in tree.items()
        for b, innermost in inner.items()
        for c, value in innermost.items()
    }
    assert found == flat


def test_a_config_does_not_differ_from_itself():
    run = config.override(Config(), {"optim.betas": [0.5, 0.6], "optim.lr": 0.1})
    assert config.differences(config.flatten(run), run) == []


def test_differences_name_both_values_in_the_order_of_the_keys():
    old = config.flatten(Config())
    new = config.override(Config(), {"optim.betas": [0.5, 0.6], "data.image_size": 16})
    assert config.differences(old, new) == [
        "data.image_size: 8 -> 16",
        "optim.betas: [0.9, 0.99] -> [0.5, 0.6]",
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [("cluster.num_workers", 2), ("run.storage_url", "s3://b"), ("sampler.solver", "ddpm")],
)
def test_keys_that_may_change_do_not_count(key: str, value: object):
    new = config.override(Config(), {key: value})
    assert config.differences(config.flatten(Config()), new) == []


def test_a_key_younger_than_the_run_counts_unless_it_has_its_default():
    old = config.flatten(Config())
    del old["optim.lr"]
    assert config.differences(old, Config()) == []
    new = config.override(Config(), {"optim.lr": 0.5})
    assert config.differences(old, new) == ["optim.lr: 0.001 -> 0.5"]


def test_a_key_that_this_version_does_not_know_counts():
    old = config.flatten(Config()) | {"optim.momentum": 0.9}
    assert config.differences(old, Config()) == ["optim.momentum: 0.9 -> no such key"]
