import pytest

from ray_diffusion.cluster.progress import ProgressLine, line

FACTS = {
    "images_seen": 64_000,
    "total_images": 128_000,
    "loss": 0.08312,
    "images_per_second": 1_600.0,
    "data_wait_fraction": 0.034,
    "checkpoint_at": 1_000.0,
    "restarts": 0,
    "nodes": set(),
    "warnings": [],
}


def test_the_line_says_how_far_how_fast_and_how_safe():
    assert line(FACTS, now=1_012.0) == (
        "64,000 of 128,000 images (50%) · loss 0.0831 · 1,600 images/s · data wait 3% · "
        "40 s left · checkpoint 12 s old"
    )


def test_of_several_workers_the_line_says_how_many_there_are_now():
    assert "data wait 3% · 4 workers · 40 s left" in line(FACTS | {"workers": 4}, now=1_012.0)
    assert "worker" not in line(FACTS | {"workers": 1}, now=1_012.0)


def test_before_the_first_step_there_is_something_to_say():
    assert line({"restarts": 0, "warnings": []}, now=0.0) == "starting the workers"


def test_off_a_terminal_lines_are_plain_and_far_apart(capsys: pytest.CaptureFixture[str]):
    progress = ProgressLine()
    progress.show(FACTS)
    progress.show(FACTS | {"images_seen": 70_000})
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "\r" not in shown
    assert "\x1b" not in shown


def test_warnings_are_shown_at_once(capsys: pytest.CaptureFixture[str]):
    progress = ProgressLine()
    progress.show(FACTS | {"warnings": ["a checkpoint is damaged"]})
    assert "warning: a checkpoint is damaged" in capsys.readouterr().err
