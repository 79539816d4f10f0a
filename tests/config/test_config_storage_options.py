"""run.storage_options: settings of storage clients that may be written down, and no secrets."""

import pytest

from ray_diffusion.config import dump, from_yaml, load
from ray_diffusion.errors import ConfigError

SECRET = "hunter2"


def complaint(text: str) -> str:
    with pytest.raises(ConfigError) as error:
        load([f"run.storage_options={text}"])
    [line] = error.value.problems
    return line


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("s3.endpoint_url=http://minio:9000", ("s3.endpoint_url=http://minio:9000",)),
        ("[s3.anon=true, gs.project=p]", ("s3.anon=true", "gs.project=p")),
        ("[s3.client_kwargs.verify=false]", ("s3.client_kwargs.verify=false",)),
        (
            "[s3.config_kwargs.max_pool_connections=50]",
            ("s3.config_kwargs.max_pool_connections=50",),
        ),
        ("[]", ()),
    ],
)
def test_options_are_taken_as_they_are_and_survive_a_config_file(
    text: str, options: tuple[str, ...]
):
    config = load([f"run.storage_options={text}"])
    assert config.run.storage_options == options
    assert from_yaml(dump(config), "config.yaml") == config


@pytest.mark.parametrize(
    "option",
    [
        f"s3.secret={SECRET}",
        f"s3.SECRET={SECRET}",
        f"s3.client_kwargs.aws_secret_access_key={SECRET}",
        f"abfs.connection_string={SECRET}",
        f"s3.endpoint_url=http://me:{SECRET}@minio:9000",
        f's3.client_kwargs={{"aws_secret_access_key": "{SECRET}"}}',
    ],
)
def test_a_credential_is_refused_and_never_repeated(option: str):
    name = option.partition("=")[0]
    for text in (f"'{option}'", f"['{option}']"):
        assert complaint(text) == (
            f"run.storage_options: {name} holds a credential; set it in the environment instead"
        )


@pytest.mark.parametrize(
    "text",
    [
        f"s3secret={SECRET}",
        f"[s3.={SECRET}]",
        f"[s3.a..b={SECRET}]",
        f"[={SECRET}]",
        "[s3.anon=]",
        "[s3.anon]",
        f"{{s3.secret: {SECRET}}}",
        f"[{{s3.secret: {SECRET}}}]",
        "[3]",
        "null",
    ],
)
def test_anything_else_is_refused_and_never_repeated(text: str):
    assert complaint(text) == (
        "run.storage_options: each must be PROTOCOL.OPTION=VALUE, "
        "such as s3.endpoint_url=http://minio:9000"
    )
