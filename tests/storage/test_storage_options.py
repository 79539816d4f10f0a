"""Settings of storage clients, from text to the clients of this process and those it starts."""

import json
import os
import subprocess
import sys

import pytest

from ray_diffusion.errors import StorageError, UsageError
from ray_diffusion.storage import Directory, options

pytest_plugins = ["object_store"]

pytestmark = [
    pytest.mark.usefixtures("restored_options"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of botocore
]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("s3.endpoint_url=http://minio:9000", {"endpoint_url": "http://minio:9000"}),
        ("s3.anon=true", {"anon": True}),
        ("s3.default_block_size=1048576", {"default_block_size": 1048576}),
        ("s3.endpoint_url=null", {"endpoint_url": None}),
        ("s3.x=a=b", {"x": "a=b"}),
        ("s3.client_kwargs.verify=false", {"client_kwargs": {"verify": False}}),
        ('s3.client_kwargs={"verify": false}', {"client_kwargs": {"verify": False}}),
        ("s3.a.b.c=1", {"a": {"b": {"c": 1}}}),
        ("s3.x={not json", {"x": "{not json"}),
    ],
)
def test_a_value_is_json_or_else_text_and_dots_lead_into_groups(text: str, value: object):
    assert {k: json.loads(v) for k, v in options.environment([text]).items()} == {
        "FSSPEC_S3": value
    }


def test_options_add_to_each_other_and_to_what_is_set_and_the_last_word_counts(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("FSSPEC_S3", '{"anon": false, "client_kwargs": {"verify": true}}')
    found = options.environment(
        ["s3.anon=true", "gs.project=p", "s3.client_kwargs.region_name=here", "gs.project=q"]
    )
    assert {variable: json.loads(text) for variable, text in found.items()} == {
        "FSSPEC_S3": {"anon": True, "client_kwargs": {"verify": True, "region_name": "here"}},
        "FSSPEC_GS": {"project": "q"},
    }
    assert "FSSPEC_GS" not in os.environ


def test_no_options_change_nothing():
    assert options.environment([]) == {}
    before = os.environ.copy()
    options.use([])
    assert os.environ == before


def test_an_option_that_is_a_value_and_a_group_is_refused():
    with pytest.raises(UsageError) as error:
        options.environment(["s3.client_kwargs=1", "s3.client_kwargs.verify=false"])
    assert str(error.value) == (
        "storage option s3.client_kwargs.verify: client_kwargs is a value, not a group"
    )


@pytest.mark.parametrize("text", ["anon", "[1]", ""])
def test_a_variable_that_holds_no_options_is_named_but_not_shown(
    monkeypatch: pytest.MonkeyPatch, text: str
):
    monkeypatch.setenv("FSSPEC_S3", text)
    with pytest.raises(UsageError) as error:
        options.use(["s3.anon=true"])
    assert str(error.value) == "the environment variable FSSPEC_S3 is no JSON object"


def test_an_endpoint_is_reached_by_an_option_alone(bucket: str, monkeypatch: pytest.MonkeyPatch):
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    Directory(bucket).write("a", "content")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    options.use(["s3.config_kwargs.read_timeout=10"])  # another client: the first is connected
    with pytest.raises(StorageError, match="Could not connect"):
        Directory(bucket).read("a")
    options.use([f"s3.endpoint_url={endpoint}"])
    assert Directory(bucket).read("a") == b"content"


def test_processes_started_from_here_have_the_options_too():
    options.use(["memory.some.option=3"])
    program = "import fsspec; print(fsspec.config.conf['memory'])"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert answer.stdout.decode().strip() == "{'some': {'option': 3}}"
