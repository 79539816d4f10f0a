import pytest
from hypothesis import given
from hypothesis import strategies as st
from terminal import Terminal

from ray_diffusion.cluster.progress import (
    PLAIN_PERIOD_S,
    TERMINAL_PERIOD_S,
    Display,
    ProgressLine,
    line,
)

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


def test_on_a_terminal_the_line_is_redrawn_in_place(monkeypatch: pytest.MonkeyPatch):
    terminal, now = Terminal(), [0.0]
    monkeypatch.setattr("sys.stderr", terminal)
    progress = ProgressLine(clock=lambda: now[0])
    progress.tell("packing 90 of 100 images")
    progress.tell("too early")
    assert terminal.screen == ["packing 90 of 100 images"]
    now[0] += TERMINAL_PERIOD_S
    progress.tell("done")
    assert terminal.screen == ["done"]
    progress.clear()
    assert terminal.screen == []


LINES = st.lists(st.text("ab ", max_size=12).map(str.rstrip), min_size=1, max_size=6)


@given(st.lists(st.tuples(LINES, st.none() | st.just("something happened")), max_size=8))
def test_whatever_is_drawn_only_the_newest_is_seen_below_what_was_said(
    drawn: list[tuple[list[str], str | None]],
):
    with pytest.MonkeyPatch.context() as patch:
        terminal, said = Terminal(), []
        patch.setattr("sys.stderr", terminal)
        display = Display()
        for lines, remark in drawn:
            display.draw([*lines, "end"])
            assert terminal.screen == [*said, *lines, "end"]
            if remark is not None:
                display.say(remark)
                said.append(remark)
                assert terminal.screen == said
        display.clear()
        assert terminal.screen == said


def test_what_has_no_room_on_a_terminal_is_left_out(monkeypatch: pytest.MonkeyPatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "11")
    monkeypatch.setenv("LINES", "4")
    display = Display()
    for _ in range(2):
        display.draw(["x" * 30] * 9)
        assert terminal.screen == ["x" * 10] * 3
    display.warn("full")
    assert terminal.screen == ["warning: full"]


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_a_stream_that_cannot_be_redrawn_gets_plain_lines_now_and_then(
    term: str, monkeypatch: pytest.MonkeyPatch
):
    stream, now = Terminal(is_one=term == "dumb"), [0.0]
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", term)
    progress = ProgressLine(clock=lambda: now[0])
    for text in ("one", "two", "three", "four", "three", "four", "five"):
        progress.tell(text)
        progress.clear()
        now[0] += PLAIN_PERIOD_S / 2
    assert stream.getvalue() == "one\nthree\nfive\n"
