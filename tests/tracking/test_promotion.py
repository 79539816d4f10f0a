"""An alias of a registered model moves to what is better, and nothing else moves it."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow_server import Server

from ray_diffusion.errors import TrackingError, UsageError
from ray_diffusion.tracking.client import connect
from ray_diffusion.tracking.identity import RunIdentity
from ray_diffusion.tracking.promotion import Champion, Version, promote, upload
from ray_diffusion.tracking.registry import fetch_model
from ray_diffusion.tracking.run import find_or_create

Upload = Callable[[str], Version]


@pytest.fixture
def uploaded(
    server: Server, identity: RunIdentity, tmp_path: Path, request: pytest.FixtureRequest
) -> Upload:
    run_id = find_or_create(identity).run_id

    def uploaded(content: str) -> Version:
        (tmp_path / content).mkdir(exist_ok=True)
        (tmp_path / content / "file").write_text(content)
        name, folder = str(request.node.name), f"models/{content}"
        return upload(server.uri, name, run_id, str(tmp_path / content), folder, {})

    return uploaded


def always(champion: Champion | None) -> bool:
    return True


def never(champion: Champion | None) -> bool:
    return False


def holder(version: Version) -> str | None:
    aliases = connect(version.tracking_uri).get_registered_model(version.name).aliases
    return str(aliases["champion"]) if "champion" in aliases else None


def test_what_is_uploaded_at_once_is_a_version_and_the_same_one_the_next_time(
    uploaded: Upload, tmp_path: Path
):
    first, second = uploaded("a"), uploaded("b")
    assert [first.number, second.number, uploaded("a").number] == ["1", "2", "1"]
    assert second.uri.endswith("/2")
    found = fetch_model(second.uri, second.tracking_uri, tmp_path / "into")
    assert (found.path / "file").read_text() == "b"


def test_the_alias_moves_when_the_present_holder_is_beaten_and_only_then(uploaded: Upload):
    first, second = uploaded("a"), uploaded("b")
    assert promote(first, "champion", {"fd": 1.0}, never) == (None, False)
    assert holder(first) is None
    assert promote(first, "champion", {"fd": 1.0}, always) == (None, True)
    assert holder(first) == "1"
    present = Champion(first, {"fd": 1.0})
    asked: list[Champion | None] = []
    assert promote(second, "champion", {"fd": 2.0}, lambda c: bool(asked.append(c))) == (
        present,
        False,
    )
    assert asked == [present]
    assert holder(first) == "1"
    assert promote(second, "champion", {"fd": 0.5}, always) == (present, True)
    assert holder(first) == "2"


def test_the_champion_itself_only_gets_its_new_evaluation(uploaded: Upload):
    version = uploaded("a")
    promote(version, "champion", {"fd": 1.0}, always)

    def unasked(champion: Champion | None) -> bool:
        raise AssertionError

    new: dict[str, Any] = {"fd": float("inf"), "seeds": [1, 2]}
    assert promote(version, "champion", new, unasked) == (Champion(version, new), False)
    assert holder(version) == "1"


def test_a_champion_that_someone_named_by_hand_has_no_evaluation(uploaded: Upload):
    first, second = uploaded("a"), uploaded("b")
    connect(first.tracking_uri).set_registered_model_alias(first.name, "champion", first.number)
    assert promote(second, "champion", {}, never) == (Champion(first, None), False)


def test_a_refusal_leaves_the_alias_alone(uploaded: Upload):
    first, second = uploaded("a"), uploaded("b")
    promote(first, "champion", {}, always)

    def refuse(champion: Champion | None) -> bool:
        raise UsageError("not measured in the same way")

    with pytest.raises(UsageError, match="not measured in the same way"):
        promote(second, "champion", {}, refuse)
    assert holder(first) == "1"


def test_a_server_that_is_down_is_one_line_and_nothing_is_half_done(tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        down = f"http://127.0.0.1:{free.getsockname()[1]}"
        for call in (
            lambda: promote(Version(down, "digits", "1"), "champion", {}, always),
            lambda: upload(down, "digits", "0" * 32, str(tmp_path), "models/a", {}),
        ):
            with pytest.raises(TrackingError, match=f"MLflow at {down}: ") as caught:
                call()
            assert "\n" not in str(caught.value)
