import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_diffusion.errors import TrackingError, UsageError
from ray_diffusion.tracking.client import connect
from ray_diffusion.tracking.registry import at_hand, fetch_model

# MLflow's models of its own tables, read where the store is in this process.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

Register = Callable[[str, str], str]


@pytest.fixture(scope="module", params=["server", "sqlite"])
def home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a real MLflow keeps everything."""
    if request.param == "server":
        return request.getfixturevalue("server").directory
    return tmp_path_factory.mktemp("sqlite")


@pytest.fixture(scope="module")
def uri(home: Path, request: pytest.FixtureRequest) -> str:
    if (home / "server.log").exists():
        return request.getfixturevalue("server").uri
    return f"sqlite:///{home / 'mlflow.db'}"


@pytest.fixture
def register(uri: str, home: Path, tmp_path: Path) -> Register:
    """Log a ``model/`` with one file to a new run, and register it; its version."""
    client = connect(uri)

    def register(name: str, content: str) -> str:
        model = tmp_path / content / "model"
        model.mkdir(parents=True)
        (model / "file").write_text(content)
        location = f"{home}/artifacts" if uri.startswith("sqlite") else None
        experiment = client.create_experiment(f"{name} {content}", location)
        run = client.create_run(experiment).info
        client.log_artifacts(run.run_id, str(model), "model")
        if not client.search_registered_models(f"name='{name}'"):
            client.create_registered_model(name)
        made = client.create_model_version(name, f"{run.artifact_uri}/model", run.run_id)
        return str(made.version)

    return register


def test_a_model_is_fetched_by_version_and_by_alias(
    uri: str, register: Register, tmp_path: Path, request: pytest.FixtureRequest
):
    for content in ("old", "new"):
        version = register("digits", content)
        connect(uri).set_registered_model_alias("digits", "champion", version)
        found = fetch_model("models:/digits@champion", uri, tmp_path / f"alias {content}")
        assert found.uri == f"models:/digits/{version}"
        assert (found.path / "file").read_text() == content
    again = fetch_model("models:/digits/1", uri, tmp_path / "version")
    assert again.uri == "models:/digits/1"
    assert [path.name for path in again.path.iterdir()] == ["file"]
    assert (again.path / "file").read_text() == "old"


def test_the_model_of_a_run_is_fetched_without_being_registered(
    uri: str, home: Path, tmp_path: Path
):
    client = connect(uri)
    location = f"{home}/artifacts" if uri.startswith("sqlite") else None
    run_id = client.create_run(client.create_experiment("unregistered", location)).info.run_id
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "file").write_text("weights")
    with pytest.raises(TrackingError, match=f"has mlflow:{run_id}, but not its files: "):
        fetch_model(f"mlflow:{run_id}", uri, tmp_path / "early")
    client.log_artifacts(run_id, str(tmp_path / "model"), "model")
    found = fetch_model(f"mlflow:{run_id}", uri, tmp_path / "into")
    assert found.uri == f"mlflow:{run_id}"
    assert (found.path / "file").read_text() == "weights"


def test_a_model_at_hand_stays_where_it_is_and_one_of_mlflow_goes_again(
    uri: str, register: Register, monkeypatch: pytest.MonkeyPatch
):
    with at_hand("s3://bucket/run") as found:
        assert found == ("s3://bucket/run", "s3://bucket/run")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    version = register("at-hand", "content")
    connect(uri).set_registered_model_alias("at-hand", "champion", version)
    with at_hand("models:/at-hand@champion") as (name, place):
        assert name == f"models:/at-hand/{version}"
        assert Path(place, "file").read_text() == "content"
    assert not Path(place).exists()


def test_a_model_without_its_files_is_told_from_no_model(
    uri: str, home: Path, register: Register, tmp_path: Path
):
    version = register("gone", "content")
    location = connect(uri).get_model_version_download_uri("gone", version)
    shutil.rmtree(home / "artifacts" / location.split("artifacts", 1)[1].strip(":/"))
    with pytest.raises(TrackingError, match="has models:/gone/1, but not its files: ") as caught:
        fetch_model("models:/gone/1", uri, tmp_path / "into")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wanted",
    [
        "models:/digits@nobody",
        "models:/digits/99",
        "models:/nothing@champion",
        "models:/nothing/1",
        "mlflow:00000000000000000000000000000000",
    ],
)
def test_a_model_that_there_is_not_is_named(
    uri: str, register: Register, tmp_path: Path, wanted: str
):
    if not connect(uri).search_registered_models("name='digits'"):
        register("digits", "first")
    with pytest.raises(UsageError, match=f"MLflow at {uri} has no {wanted}$"):
        fetch_model(wanted, uri, tmp_path / "into")


@pytest.mark.parametrize(
    "wanted",
    ["models:/" + rest for rest in ("digits", "digits/latest", "digits@", "/1", "a/b/1", "a@b/c")]
    + ["models:/a/1/b", "models:/@champion", "mlflow:", "mlflow:a/b"],
)
def test_what_names_no_version_is_refused_before_anyone_is_asked(tmp_path: Path, wanted: str):
    with pytest.raises(UsageError, match="is none of models:/NAME@ALIAS, models:/NAME/VERSION, "):
        fetch_model(wanted, "http://nowhere.invalid", tmp_path)


def test_a_server_that_is_down_is_a_trouble_of_tracking(tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        down = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(TrackingError, match=f"MLflow at {down}: ") as caught:
            fetch_model("models:/digits@champion", down, tmp_path)
    assert "\n" not in str(caught.value)


def test_asking_a_database_that_there_is_not_does_not_make_one(tmp_path: Path):
    with pytest.raises(UsageError, match="has no models:/digits/1"):
        fetch_model("models:/digits/1", f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "into")
    assert list(tmp_path.iterdir()) == []
