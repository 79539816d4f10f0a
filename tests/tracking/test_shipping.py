"""The way from a spool to a real MLflow server."""

import logging
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow_server import Server, until

from ray_diffusion.errors import TrackingError
from ray_diffusion.tracking.client import connect
from ray_diffusion.tracking.delivery import Delivery
from ray_diffusion.tracking.identity import RunIdentity
from ray_diffusion.tracking.run import find_or_create
from ray_diffusion.tracking.spool import Spool
from ray_diffusion.tracking.tracker import Tracker

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::PendingDeprecationWarning", "ignore::FutureWarning"
)

CURVE = [(step, step / 2) for step in range(1, 21)]


def log_curve(tracker: Tracker | Spool, after: int = 0, until: int = 20) -> None:
    for step in range(after + 1, until + 1):
        tracker.log(step, {"train/loss": step / 2})


def run_ids(identity: RunIdentity) -> list[str]:
    client = connect(identity.uri)
    experiment = client.get_experiment_by_name(identity.experiment)
    assert experiment is not None
    query = f"tags.`ray_diffusion.run_key` = '{identity.run_key}'"
    return [run.info.run_id for run in client.search_runs([experiment.experiment_id], query)]


def test_a_run_arrives_with_points_params_tags_artifacts_and_status(
    server: Server, identity: RunIdentity, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0")
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids" / "64.png").write_bytes(b"png")
    with Tracker(tmp_path / "run", "train", identity) as tracker:
        log_curve(tracker)
        tracker.artifact(tmp_path / "config.yaml")
        tracker.artifact(tmp_path / "grids", "samples")
        assert tracker.finish("FINISHED", deadline_s=60)
        assert tracker.backlog == 0
    output = capfd.readouterr()
    assert (output.out, output.err) == ("", "")

    assert [tracker.run_id] == run_ids(identity)
    client = connect(identity.uri)
    run = client.get_run(tracker.run_id)
    assert server.points(run.info.run_id, "train/loss") == CURVE
    assert run.data.params == {"optim.lr": "0.001", "model.notes": "x" * 6000}
    assert run.data.tags["git.commit"] == "abc"
    assert (run.info.run_name, run.info.status) == ("digits", "FINISHED")
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == [
        "config.yaml",
        "samples",
    ]
    assert [f.path for f in client.list_artifacts(run.info.run_id, "samples")] == ["samples/64.png"]
    assert tracker.run_url == (
        f"{server.uri}/#/experiments/{run.info.experiment_id}/runs/{tracker.run_id}"
    )


def test_points_sent_but_not_acked_are_stored_once(
    server: Server, identity: RunIdentity, tmp_path: Path
) -> None:
    spool = Spool(tmp_path / "train.jsonl")
    log_curve(spool)
    run = find_or_create(identity)
    delivery = Delivery(connect(identity.uri), run.run_id)
    for batch in spool.unshipped(limit=7):
        delivery.send(batch)
    spool.close()

    with Tracker(tmp_path, "train", identity) as tracker:
        assert tracker.backlog == 20
        assert tracker.finish(deadline_s=60)
    assert server.points(run.run_id, "train/loss") == CURVE


TRAINING = """
import pathlib, sys
from ray_diffusion.tracking.identity import RunIdentity
from ray_diffusion.tracking.tracker import Tracker
directory, uri, key, first, last, period = sys.argv[1:]
identity = RunIdentity("chaos", key, "tests", uri)
tracker = Tracker(pathlib.Path(directory), "train", identity, period_s=float(period))
for step in range(int(first), int(last) + 1):
    tracker.log(step, {"train/loss": step / 2})
print("logged", flush=True)
if last == "2000":
    print(tracker.finish("FINISHED", 60))
else:
    sys.stdin.read()
"""


def test_a_killed_training_that_computes_its_steps_again_leaves_one_point_each(
    server: Server, identity: RunIdentity, tmp_path: Path
) -> None:
    def start(first: int, last: int) -> subprocess.Popen[bytes]:
        arguments = [tmp_path, server.uri, identity.run_key, str(first), str(last), "0.01"]
        return subprocess.Popen(
            [sys.executable, "-c", TRAINING, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    with start(1, 1500) as killed:
        until((tmp_path / "train.acked").exists)  # in the middle of shipping 1500 points
        killed.send_signal(signal.SIGKILL)
    with start(900, 2000) as resumed:
        output, _ = resumed.communicate()
    assert output == b"logged\nTrue\n"
    [run_id] = run_ids(identity)
    assert server.points(run_id, "train/loss") == [(s, s / 2) for s in range(1, 2001)]


def test_an_outage_costs_no_point_and_doubles_none(
    server: Server, identity: RunIdentity, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.kill()
    with pytest.raises(TrackingError, match="MLflow at http"):
        find_or_create(identity)
    with Tracker(tmp_path, "train", identity, period_s=0.05) as tracker:
        log_curve(tracker, until=8)
        assert not tracker.finish(deadline_s=0.5)
    assert tracker.run_id is None
    assert [r.levelname for r in caplog.records if "nothing is lost" in r.message] == ["WARNING"]

    with Tracker(tmp_path, "train", identity, period_s=0.05) as tracker:
        log_curve(tracker, after=4, until=20)
        assert tracker.backlog == 20
        server.start()
        until(lambda: tracker.backlog == 0)
        assert tracker.finish("FINISHED", deadline_s=60)
    assert tracker.run_id is not None
    assert server.points(tracker.run_id, "train/loss") == CURVE
    assert "answers again" in caplog.text


def test_a_run_is_found_by_its_key_and_described_once(identity: RunIdentity) -> None:
    first = find_or_create(identity, deadline_s=60)
    changed = replace(identity, params={"optim.lr": "9", "optim.new": "1"}, tags={"image": "v1"})
    assert find_or_create(changed) == first
    data = connect(identity.uri).get_run(first.run_id).data
    assert (data.params["optim.lr"], data.params["optim.new"]) == ("0.001", "1")
    assert (data.tags["git.commit"], data.tags["image"]) == ("abc", "v1")


def test_an_id_that_is_gone_leads_back_to_the_key(identity: RunIdentity) -> None:
    first = find_or_create(identity)
    assert find_or_create(identity, run_id=first.run_id) == first
    assert find_or_create(identity, run_id="0" * 32) == first
    connect(identity.uri).delete_run(first.run_id)
    assert find_or_create(identity, run_id=first.run_id).run_id != first.run_id


def test_more_params_than_one_call_takes_are_all_written(identity: RunIdentity) -> None:
    many = replace(identity, params={f"key.{i}": str(i) for i in range(230)})
    run = find_or_create(many)
    assert connect(identity.uri).get_run(run.run_id).data.params == many.params


def test_processes_that_begin_together_agree_on_one_run(identity: RunIdentity) -> None:
    together = replace(identity, experiment="made by several at once")
    start = threading.Barrier(3)
    found = []

    def begin() -> None:
        start.wait()
        found.append(find_or_create(together).run_id)

    threads = [threading.Thread(target=begin) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert run_ids(together) == [found[0]]
    assert len(set(found)) == 1


def test_a_deadline_bounds_the_search(
    identity: RunIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = threading.Event()
    monkeypatch.setattr("ray_diffusion.tracking.run.connect", lambda uri: frozen.wait())
    with pytest.raises(TrackingError, match=r"did not answer within 0\.1 s"):
        find_or_create(identity, deadline_s=0.1)
    frozen.set()


def test_what_mlflow_will_never_take_does_not_block_the_rest(
    server: Server, identity: RunIdentity, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Tracker(tmp_path, "train", identity) as tracker:
        tracker.log(1, {"a name! that #is not allowed": 1.0, "train/loss": 0.5})
        tracker.artifact(tmp_path / "gone.png")
        tracker.log(2, {"train/loss": 1.0})
        assert tracker.finish(deadline_s=60)
    assert tracker.run_id is not None
    assert server.points(tracker.run_id, "train/loss") == CURVE[:2]
    assert tracker.skipped == 2
    assert [r.levelname for r in caplog.records if "skipped" in r.message] == ["WARNING"]


def test_points_of_a_deleted_run_are_left_out(
    identity: RunIdentity, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Tracker(tmp_path, "train", identity, period_s=0.05) as tracker:
        log_curve(tracker, until=1)
        until(lambda: tracker.backlog == 0)
        assert tracker.run_id is not None
        connect(identity.uri).delete_run(tracker.run_id)
        log_curve(tracker, after=1)
        assert tracker.finish("FINISHED", deadline_s=60)
    assert tracker.skipped == 20
    assert caplog.text.count("skipped") == 1


def test_a_database_without_a_server_is_made_where_the_uri_says(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    storage = tmp_path / "runs"
    identity = RunIdentity(
        name="digits",
        run_key="key",
        experiment="tests",
        uri=f"sqlite:///{storage}/made/mlflow.db",
        artifact_location=str(storage / "mlartifacts"),
    )
    (tmp_path / "config.yaml").write_text("seed: 0")
    with Tracker(storage / "digits", "driver", identity) as tracker:
        log_curve(tracker)
        tracker.artifact(tmp_path / "config.yaml", "config")
        assert tracker.finish("FINISHED", deadline_s=60)
    output = capfd.readouterr()
    assert (output.out, output.err, caplog.text) == ("", "", "")
    assert tracker.run_url is None
    artifact = storage / "mlartifacts" / str(tracker.run_id) / "artifacts" / "config/config.yaml"
    assert artifact.read_text() == "seed: 0"


def test_roles_record_one_run_in_spools_of_their_own(identity: RunIdentity, tmp_path: Path) -> None:
    with (
        Tracker(tmp_path, "train", identity) as train,
        Tracker(tmp_path, "driver", identity) as driver,
    ):
        train.log(1, {"train/loss": 0.5})
        driver.log(1, {"cluster/restarts": 0.0})
        assert train.finish(deadline_s=60)
        assert driver.finish(deadline_s=60)
    assert run_ids(identity) == [train.run_id] == [driver.run_id]


def test_there_are_no_other_roles(identity: RunIdentity, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="role must be one of train, driver, evaluate"):
        Tracker(tmp_path, "serve", identity)  # type: ignore[arg-type]


def test_importing_the_room_does_not_import_mlflow() -> None:
    program = (
        "import sys, ray_diffusion.tracking.tracker, ray_diffusion.tracking.curve;"
        "print({'mlflow', 'matplotlib', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout == b"set()\n"
