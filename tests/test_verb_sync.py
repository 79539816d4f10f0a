"""Sync from its command line to MLflow, its lines and exit codes."""

import json
import secrets
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tiny_config import RESOLVED, TINY

from ray_diffusion import config, errors, sync
from ray_diffusion.cluster import lineage, summary
from ray_diffusion.cluster.lineage import recorded, spool_directory
from ray_diffusion.storage import Directory
from ray_diffusion.tracking.client import connect
from ray_diffusion.tracking.identity import SWEEP_KEY_TAG, SWEEP_TAG
from ray_diffusion.tracking.spool import Spool
from ray_diffusion.tracking.tracker import Tracker

pytestmark = [
    pytest.mark.usefixtures("_in_a_directory_of_its_own"),
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::PendingDeprecationWarning", "ignore::FutureWarning"
    ),
]
NOWHERE = "http://127.0.0.1:9"  # the port of `discard`: nobody listens


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all: making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


def launched(name: str, **keys: object) -> Directory:
    """A run of which MLflow knows nothing, as a launch leaves it that is killed at its start."""
    run = Directory(f"runs/{name}")
    keys = {"run.name": name, "run.storage_url": str(Path("runs").absolute())} | keys
    run.write("config.yaml", config.dump(config.override(config.Config(), TINY | RESOLVED | keys)))
    origin = {"run_key": secrets.token_hex(8), "mlflow_run_id": None}
    run.write("run.json", json.dumps(origin | {"git.commit": "abc", "host": "there"}))
    return run


def spool_of(run: Directory, role: str = "train") -> Spool:
    return Spool(spool_directory(*recorded(run)) / f"{role}.jsonl")


def record(run: Directory, points: int, role: str = "train") -> None:
    with closing(spool_of(run, role)) as spool:
        for step in range(1, points + 1):
            spool.log(step, {f"{role}/loss": step / 2})


def sync_to(code: int, *words: str) -> None:
    assert errors.run(sync.main, list(words)) == code


def found(run: Directory, uri: str) -> Any:
    """The one run that MLflow has under the run's key."""
    client, key = connect(uri), recorded(run)[1].run_key
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    [found] = client.search_runs(experiments, f"tags.`ray_diffusion.run_key` = '{key}'")
    return found


def test_a_run_that_mlflow_never_saw_gets_the_lineage_of_its_launch(
    mlflow: str, capsys: pytest.CaptureFixture[str]
):
    run = launched("digits", **{"tracking.uri": mlflow})
    record(run, 5)
    record(run, 2, "evaluate")
    summary.Summary("finished", run.url, shipped=False).write(run)
    sync_to(0, "runs/digits")
    there = found(run, mlflow)
    name = there.info.run_id
    assert capsys.readouterr().out == f"runs/digits: 7 points shipped, run {name}\n"
    assert (there.data.tags["git.commit"], there.data.tags["host"]) == ("abc", "there")
    assert not {"command", "run_key", "mlflow_run_id"} & set(there.data.tags)
    assert there.data.params["model.channels"] == "8"
    points = connect(mlflow).get_metric_history(name, "train/loss")
    assert [(point.step, point.value) for point in points] == [(s, s / 2) for s in range(1, 6)]
    assert there.data.metrics["evaluate/loss"] == 1
    written = summary.read(run)
    assert written is not None
    assert (written["shipped"], written["mlflow_run_id"]) == (True, name)

    sync_to(0, "runs/digits")
    assert capsys.readouterr().out == "runs/digits: nothing was left\n"


def test_all_runs_of_a_directory_are_shipped_but_for_the_one_that_is_being_recorded(
    mlflow: str, capsys: pytest.CaptureFixture[str]
):
    for name in ("a", "b", "c"):
        record(launched(name, **{"tracking.uri": mlflow}), 3)
    Path("runs/notes").mkdir()
    with closing(spool_of(Directory("runs/b"))):
        sync_to(0, "runs/")
    a, b, c = capsys.readouterr().out.splitlines()
    assert a.startswith("runs/a: 3 points shipped, run ")
    assert b == "runs/b: is being recorded now, and ships by itself"
    assert c.startswith("runs/c: 3 points shipped, run ")


def test_a_sweep_is_shipped_with_its_trials_below_it(
    mlflow: str, capsys: pytest.CaptureFixture[str]
):
    sweep = launched("sweep", **{"tracking.uri": mlflow})
    key = recorded(sweep)[1].run_key
    place = {"run.storage_url": sweep.url, "tracking.uri": mlflow}
    trial = launched("sweep/trial-0000", **{"run.name": "trial-0000"} | place)
    origin = json.loads(trial.read("run.json") or b"") | {SWEEP_TAG: "sweep", SWEEP_KEY_TAG: key}
    trial.write("run.json", json.dumps(origin))
    record(trial, 2)
    record(sweep, 1)
    sync_to(0, "runs/sweep")
    told = [line.partition(" points")[0] for line in capsys.readouterr().out.splitlines()]
    assert told == ["runs/sweep: 1", "runs/sweep/trial-0000: 2"]
    there, parent = found(trial, mlflow), found(sweep, mlflow)
    assert there.info.run_name == "sweep/trial-0000"
    assert there.data.tags["mlflow.parentRunId"] == parent.info.run_id


def test_while_mlflow_is_away_all_waits_and_one_line_says_so(capsys: pytest.CaptureFixture[str]):
    run = launched("digits", **{"tracking.uri": NOWHERE})
    record(run, 3)
    log = Path("runs/digits/spool/train.jsonl").read_bytes()
    sync_to(3, "runs/digits")
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == f"error: MLflow at {NOWHERE}: Connection refused\n"
    assert Path("runs/digits/spool/train.jsonl").read_bytes() == log
    with closing(spool_of(run)) as spool:
        assert spool.backlog == 3


def test_uri_is_where_mlflow_has_moved_to(mlflow: str):
    run = launched("digits", **{"tracking.uri": NOWHERE})
    record(run, 3)
    sync_to(0, "runs/digits", f"uri={mlflow}")
    assert found(run, mlflow).data.metrics == {"train/loss": 1.5}


def test_a_run_that_was_moved_is_at_home_where_it_is_now():
    before = recorded(launched("digits"))[1]
    Path("elsewhere").mkdir()
    Path("runs/digits").rename("elsewhere/numbers")
    trained, identity = recorded(Directory("elsewhere/numbers"))
    assert trained.run.url == str(Path("elsewhere/numbers").absolute())
    assert identity.uri == f"sqlite:///{Path('elsewhere').absolute()}/mlflow.db"
    assert (identity.run_key, identity.tags) == (before.run_key, before.tags)


def test_a_lost_machine_s_metrics_come_from_the_newest_checkpoint(
    mlflow: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    remote = Directory(f"memory://{secrets.token_hex(4)}/digits")
    local = launched("digits", **{"tracking.uri": mlflow})
    for name in ("config.yaml", "run.json"):
        remote.write(name, local.read(name) or b"")
    with closing(Spool(tmp_path / "lost" / "train.jsonl")) as lost:
        for step in (1, 2, 3):
            lost.log(step, {"train/loss": step / 2})
        lost.add_artifact(tmp_path / "lost" / "samples" / "3.png", "samples")
        remote.write(f"checkpoint-{3:012d}/{lineage.TAIL}", lost.tail(3))
    remote.write("samples/3.png", b"png")
    for told in ("3 points shipped", "nothing was left"):
        sync_to(0, remote.url)
        assert told in capsys.readouterr().out
    there = found(remote, mlflow)
    points = connect(mlflow).get_metric_history(there.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in points] == [(s, s / 2) for s in (1, 2, 3)]
    [file] = connect(mlflow).list_artifacts(there.info.run_id, "samples")
    assert file.path == "samples/3.png"


def test_what_is_no_run_is_refused(capsys: pytest.CaptureFixture[str]):
    Path("empty").mkdir()
    sync_to(2, "empty")
    assert capsys.readouterr().err == (
        f"error: {Path('empty').absolute()} is neither a run nor does it hold any\n"
    )
    sync_to(2)
    assert "runs: missing" in capsys.readouterr().err
    with pytest.raises(errors.UsageError, match=r"is no run: it has no config\.yaml"):
        recorded(Directory("empty"))


def test_sync_loads_no_ray(mlflow: str):
    record(launched("digits", **{"tracking.uri": mlflow}), 1)
    program = (
        "import sys; from ray_diffusion import sync; sync.main(['runs/digits']);"
        "print('ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["False"], done.stderr


class Hasty(Tracker):
    """Gives up as soon as something has arrived, as one does whose deadline is short."""

    def finish(self, status: str | None = None, deadline_s: float = 10.0) -> bool:
        waits = self.backlog
        while 0 < waits <= self.backlog:
            time.sleep(0.01)  # between looks whether a point has arrived
        return super().finish(status, 0)


def test_a_long_backlog_is_shipped_as_long_as_something_arrives(
    mlflow: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(lineage, "Tracker", Hasty)
    run = launched("digits", **{"tracking.uri": mlflow})
    with closing(spool_of(run)) as spool:
        for step in range(1, 401):
            spool.log(step, {f"train/{name}": 0.5 for name in "abcdefghij"})
    sync_to(0, "runs/digits")
    assert "4,000 points shipped" in capsys.readouterr().out
