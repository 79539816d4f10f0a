"""The way of a finished model from a run's spool into MLflow's registry."""

from dataclasses import replace
from pathlib import Path

import pytest
from chaos_proxy import ChaosProxy, Faults
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities.model_registry import ModelVersion
from mlflow_server import Server, until

from ray_diffusion.tracking.client import connect
from ray_diffusion.tracking.events import Registration, decode, encode
from ray_diffusion.tracking.identity import RunIdentity
from ray_diffusion.tracking.promotion import register
from ray_diffusion.tracking.registry import fetch_model
from ray_diffusion.tracking.run import find_or_create
from ray_diffusion.tracking.tracker import Tracker

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::PendingDeprecationWarning", "ignore::FutureWarning"
)

TAGS = {"diffusion.prediction_type": "v_prediction", "val/score": "0.25"}


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A registered model of the test's own."""
    return str(request.node.name)[:100]


@pytest.fixture
def described(identity: RunIdentity) -> RunIdentity:
    tags = {"ray_diffusion.dataset_fingerprint": "d-1", "ray_diffusion.score_fingerprint": "s-1"}
    return replace(identity, tags=dict(identity.tags) | tags)


def export(directory: Path, content: str = "weights") -> Path:
    model = directory / "models" / content
    model.mkdir(parents=True)
    (model / "file").write_text(content)
    return model


def versions(server: Server, name: str) -> list[ModelVersion]:
    return list(connect(server.uri).search_model_versions(f"name='{name}'"))


texts = st.text(max_size=20)


@given(st.integers(), texts, texts, st.dictionaries(texts, texts))
def test_a_registration_is_read_as_it_was_written(
    time_ms: int, name: str, folder: str, tags: dict[str, str]
):
    event = Registration(time_ms, name, folder, tags)
    line = encode(event)
    assert decode(line) == event
    assert line.count(b"\n") == 1


def test_a_registered_model_links_to_its_run_says_what_it_is_and_is_fetched(
    server: Server, described: RunIdentity, name: str, tmp_path: Path
):
    with Tracker(tmp_path, "driver", described) as tracker:
        tracker.artifact(export(tmp_path), "models/weights")
        tracker.register(name, "models/weights", TAGS)
        assert tracker.finish("FINISHED", deadline_s=60)
    [version] = versions(server, name)
    assert (version.run_id, version.status) == (tracker.run_id, "READY")
    assert version.tags == TAGS | {
        "ray_diffusion.run_key": described.run_key,
        "ray_diffusion.dataset_fingerprint": "d-1",
        "ray_diffusion.score_fingerprint": "s-1",
    }
    found = fetch_model(f"models:/{name}/1", server.uri, tmp_path / "into")
    assert (found.path / "file").read_text() == "weights"


def test_the_same_model_is_one_version_and_what_the_run_makes_later_another(
    server: Server, identity: RunIdentity, name: str
):
    run_id, client = find_or_create(identity).run_id, connect(server.uri)
    found = [register(client, name, run_id, f"models/{f}", TAGS) for f in ("a", "a", "b", "a")]
    assert found == ["1", "1", "2", "1"]
    other = find_or_create(replace(identity, run_key=f"{identity.run_key} again")).run_id
    assert register(client, name, other, "models/a", TAGS) == "3"
    assert [version.run_id for version in versions(server, name)] == [other, run_id, run_id]


@pytest.mark.parametrize("kind", ["model-versions", "registered-models"])
def test_a_reply_that_is_lost_after_the_server_did_it_doubles_nothing(
    server: Server, identity: RunIdentity, name: str, tmp_path: Path, kind: str
):
    with ChaosProxy(server.port) as proxy:
        proxy.faults = Faults(reset=1.0, only=f"POST /api/2.0/mlflow/{kind}/create ")
        through = replace(identity, uri=proxy.url)
        with Tracker(tmp_path, "driver", through, period_s=0.05) as tracker:
            tracker.artifact(export(tmp_path), "models/weights")
            tracker.register(name, "models/weights", TAGS)
            until(lambda: proxy.met["reset"])
            proxy.faults = Faults()
            assert tracker.finish("FINISHED", deadline_s=60)
    [version] = versions(server, name)
    assert version.tags.items() >= TAGS.items()
    assert tracker.skipped == 0


def test_a_registry_that_fails_for_long_while_runs_are_served_is_waited_for(
    server: Server,
    identity: RunIdentity,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("ray_diffusion.tracking.delivery.ARTIFACT_TRIES", 1)
    with ChaosProxy(server.port) as proxy:
        proxy.faults = Faults(
            unavailable=1.0, status=500, only=r"\w+ /api/2.0/mlflow/model-versions"
        )
        through = replace(identity, uri=proxy.url)
        with Tracker(tmp_path, "driver", through, period_s=0.05) as tracker:
            tracker.artifact(export(tmp_path), "models/weights")
            tracker.register(name, "models/weights", TAGS)
            until(lambda: proxy.met["unavailable"] > 2)
            assert not tracker.finish(deadline_s=0.1)
    assert versions(server, name) == []
    with Tracker(tmp_path, "driver", identity) as tracker:
        assert tracker.finish("FINISHED", deadline_s=60)
    assert [version.run_id for version in versions(server, name)] == [tracker.run_id]


@pytest.mark.parametrize("name", ["without files", "not/allowed"], ids=["files", "name"])
def test_what_cannot_be_registered_does_not_hold_up_what_lies_behind_it(
    server: Server, identity: RunIdentity, name: str, tmp_path: Path
):
    with Tracker(tmp_path, "driver", identity) as tracker:
        if name == "not/allowed":
            tracker.artifact(export(tmp_path), "models/weights")
        tracker.register(name, "models/weights", TAGS)
        tracker.log(1, {"train/loss": 0.5})
        assert tracker.finish("FINISHED", deadline_s=60)
    assert tracker.skipped == 1
    assert tracker.run_id is not None
    assert server.points(tracker.run_id, "train/loss") == [(1, 0.5)]
    assert not connect(server.uri).search_registered_models(f"name='{name}'")
