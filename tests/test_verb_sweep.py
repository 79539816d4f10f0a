"""What `sweep` says and does without a cluster."""

from pathlib import Path

import pytest

from ray_diffusion import config, errors, sweep
from ray_diffusion.cluster.sweeping.journal import Journal
from ray_diffusion.cluster.sweeping.plan import opened, said

pytestmark = pytest.mark.usefixtures("_in_a_directory_of_its_own")

FILE = """\
method: grid
early_terminate: {type: none}
confirm: {top: 0}
parameters:
  optim.lr: {values: [1e-3, 1e-4]}
"""


@pytest.fixture
def file() -> str:
    Path("rates.yaml").write_text(FILE)
    return "rates.yaml"


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(
    file: str, capsys: pytest.CaptureFixture[str]
):
    assert errors.run(sweep.main, [file, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "trials     2 (grid) over optim.lr" in said
    assert "dry run: nothing was changed" in said
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "error: the first argument is the sweep's FILE.yaml"),
        (["digits"], "error: the first argument is the sweep's FILE.yaml, got digits"),
        (["none.yaml"], "error: none.yaml: cannot be read: No such file or directory"),
        (["rates.yaml", "optim.lrr=1"], "error: optim.lrr: unknown key; did you mean 'optim.lr'?"),
        (
            ["rates.yaml", "optim.lr=1e-3"],
            "error: rates.yaml:5: parameters.optim.lr: cannot vary: it was given on the command "
            "line, for all trials",
        ),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    file: str, words: list[str], line: str, capsys: pytest.CaptureFixture[str]
):
    assert errors.run(sweep.main, words) == 2
    assert capsys.readouterr().err == f"{line}\n"


def test_a_trial_larger_than_this_machine_is_refused_at_once(
    file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with Path(file).open("a") as more:
        more.write("resources: {cpus_per_worker: 4_000}\n")
    assert errors.run(sweep.main, [file]) == 2
    assert "rates.yaml:6: resources.cpus_per_worker: a trial needs 4000 CPUs" in (
        capsys.readouterr().err
    )


def test_odd_schedules_are_warned_of_with_their_trials(capsys: pytest.CaptureFixture[str]):
    Path("odd.yaml").write_text(
        FILE + "  diffusion:\n    values: [{beta_schedule: cosine}, "
        "{beta_schedule: linear, num_train_timesteps: 250, scale_betas: false}]\n"
    )
    assert errors.run(sweep.main, ["odd.yaml", "--dry-run"]) == 0
    told = capsys.readouterr().err.splitlines()
    assert all(line.startswith("warning: trial-0001 and 1 more: ") for line in told)
    assert "keeps 28% of the signal" in told[0]


def test_autoencoders_are_not_promoted_and_that_is_said_before_anything_is_trained(
    file: str, capsys: pytest.CaptureFixture[str]
):
    words = [file, "model.kind=autoencoder", "--promote"]
    assert errors.run(sweep.main, words) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == (
        "error: promote: the trials are autoencoders, which draw no images to be promoted by; "
        "leave it out, and register the winner by training it again, as the report says, with "
        "tracking.registered_model=NAME\n"
    )
    assert not Path("runs").exists()


def test_a_sweep_that_is_over_needs_no_cluster(file: str, capsys: pytest.CaptureFixture[str]):
    plan = config.sweep_command_line([file], doc=None, have=None).plan
    sweeping = opened(plan, Path(file), "the command")
    journal = Journal(sweeping.base.run, said(plan))
    for number in range(2):
        name = f"trial-{number:04d}"
        journal.begin(name, plan.values(number))
        journal.report(name, 64_000, 0.5 - number / 10, True)
        journal.end(name, "finished", {"sample/fd": 2.0 - number})
    assert sweeping.found() is None  # nobody has written its report
    journal.close()
    capsys.readouterr()
    assert errors.run(sweep.main, [file]) == 0
    out = capsys.readouterr().out
    assert "already finished; another name starts anew" in out
    assert "winner     trial-0001: optim.lr=0.0001" in out
    Path(file).write_text(FILE.replace("1e-4", "1e-5"))
    assert errors.run(sweep.main, [file]) == 2
    assert "holds another sweep" in capsys.readouterr().err
