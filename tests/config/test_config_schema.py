import pytest
from pydantic import BaseModel, ValidationError

from ray_diffusion import config
from ray_diffusion.config.rules import RULES
from ray_diffusion.config.schema import Config
from ray_diffusion.config.values import MAY_CHANGE

MAY_CHANGE_KEYS = {
    "run.storage_url",
    "run.storage_options",
    "data.cache_bytes",
    "data.workers",
    "data.corrupt_policy",
    "data.max_corrupt",
    "run.allow",
    "training.micro_batch_size",
    "training.activation_checkpointing",
    "training.compile",
    "training.checkpoint_every_images",
    "training.max_nonfinite_steps",
    "training.keep_checkpoints",
    "training.keep_best_checkpoints",
    "training.keep_every_images",
    *(
        key
        for key in config.leaves(Config)
        if key.startswith(("cluster.", "tracking.", "sampler."))
    ),
}


@pytest.mark.parametrize("key", config.leaves(Config))
def test_every_key_is_described_in_a_sentence(key: str):
    description = config.leaves(Config)[key].description
    assert description
    assert description.endswith(".")


@pytest.mark.parametrize("section", Config.model_fields)
def test_every_section_is_described_in_a_line(section: str):
    assert "\n" not in type(getattr(Config(), section)).__doc__


def test_defaults_obey_their_own_bounds_and_the_rules():
    assert config.override(Config(), config.flatten(Config())) == Config()


def test_keys_that_say_where_and_how_fast_may_change():
    marked = {key for key, f in config.leaves(Config).items() if f.json_schema_extra == MAY_CHANGE}
    assert marked == MAY_CHANGE_KEYS


def test_a_config_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Config().optim.lr = 1.0


@pytest.mark.parametrize("value", [True, "3", 1.5, None, [1]])
def test_an_int_key_takes_whole_numbers_only(value: object):
    with pytest.raises(ValidationError):
        config.Config(training={"total_images": value})


@pytest.mark.parametrize("value", [True, "3", None, float("inf"), float("nan")])
def test_a_float_key_takes_finite_numbers_only(value: object):
    with pytest.raises(ValidationError):
        config.Config(optim={"lr": value})


@pytest.mark.parametrize("value", [1, 0, "yes", "true", None])
def test_a_bool_key_takes_true_and_false_only(value: object):
    with pytest.raises(ValidationError):
        config.Config(data={"horizontal_flip": value})


def test_a_whole_float_is_an_int():
    total_images = config.Config(training={"total_images": 1e5}).training.total_images
    assert total_images == 100_000
    assert type(total_images) is int


def test_every_rule_names_existing_keys():
    assert {key for rule in RULES for key in rule.keys} <= set(config.leaves(Config))


def test_the_json_schema_can_be_made():
    assert issubclass(Config, BaseModel)
    schema = Config.model_json_schema()
    assert schema["$defs"]["Training"]["properties"]["keep_checkpoints"]["may_change"] is True
