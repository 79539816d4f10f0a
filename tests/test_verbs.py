"""What the verbs share: the console script, errors and exit codes."""

import pickle
import subprocess
import sys

import pytest

from ray_diffusion import errors
from ray_diffusion.__main__ import VERBS

pytestmark = pytest.mark.usefixtures("_in_a_directory_of_its_own")


def test_the_console_script_lists_the_verbs_and_runs_them():
    def script(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ray_diffusion", *words]
        return subprocess.run(command, capture_output=True, text=True)

    assert all(verb in script().stdout for verb in VERBS)
    assert script("trian").returncode == 2
    assert "usage: python -m ray_diffusion.pack" in script("pack", "--help").stdout


def test_errors_cross_processes_whole():
    problems = errors.ConfigError(["one", "two"])
    assert pickle.loads(pickle.dumps(problems)).problems == ["one", "two"]
    assert str(pickle.loads(pickle.dumps(errors.Diverged("loss")))) == "loss"


def test_an_error_is_one_line_its_notes_are_output_and_its_code_the_exit_code(
    capsys: pytest.CaptureFixture[str],
):
    def verb(argv: list[str]) -> None:
        error = errors.Preempted("stopped")
        error.add_note("summary")
        raise error

    assert errors.run(verb, []) == 75
    captured = capsys.readouterr()
    assert captured.err == "error: stopped\n"
    assert captured.out == "\nsummary\n"


def test_ctrl_c_is_exit_code_130():
    def verb(argv: list[str]) -> None:
        raise KeyboardInterrupt

    assert errors.run(verb, []) == 130


def test_a_bug_keeps_its_traceback():
    def verb(argv: list[str]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        errors.run(verb, [])
