import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_diffusion.storage import Directory
from ray_diffusion.training.checkpoint import images_seen_of, name_of, names
from ray_diffusion.training.harness import in_directory
from ray_diffusion.training.retention import Keep, thin_out


@pytest.fixture
def run(tmp_path: Path) -> Directory:
    return Directory(str(tmp_path / "run"))


def put(run: Directory, seen: int, score: float | None = None) -> None:
    """A whole checkpoint, as far as retention looks."""
    run.write(f"{name_of(seen)}/state.json", json.dumps({"score": score}))
    run.write(f"{name_of(seen)}/manifest.json", "{}")


def left(run: Directory) -> list[int]:
    return [images_seen_of(name) for name in names(run)]


def thinned(run: Directory, newest: int, keep: Keep, known: dict | None = None) -> list[int]:
    thin_out(run, name_of(newest), keep, {} if known is None else known)
    return left(run)


def stays(seen: int, saved: dict[int, float | None], keep: Keep) -> bool:
    """The rules, each word by word, of one checkpoint among all that were ever saved."""
    newer = [other for other in saved if other > seen]
    before = max((other for other in saved if other < seen), default=-1)
    better = [
        other
        for other, score in saved.items()
        if None not in (score, saved[seen]) and (score, -other) < (saved[seen], -seen)
    ]
    every = keep.every_images
    multiples = range(every, seen + 1, every) if every else ()
    return (
        len(newer) < keep.newest
        or (saved[seen] is not None and len(better) < keep.best)
        or any(before < multiple <= seen for multiple in multiples)
    )


keeps = st.builds(
    Keep, st.integers(1, 4), st.integers(0, 3), st.one_of(st.none(), st.integers(1, 30))
)
gaps = st.integers(1, 12)
scores = st.none() | st.sampled_from([1.0, 2.0, 3.0, 4.0])  # few: ties are wanted
# After a save the process may be killed, halfway through a save so many images ahead.
kills = st.none() | gaps


@given(keeps, st.lists(st.tuples(gaps, scores, kills), max_size=12))
def test_whatever_was_saved_what_stays_is_what_the_rules_name(keep: Keep, history: list):
    with tempfile.TemporaryDirectory() as scratch:
        run, saved, known, seen = Directory(scratch), {}, {}, 0
        for gap, score, killed in history:
            seen += gap
            put(run, seen, score)
            saved[seen] = score
            thin_out(run, name_of(seen), keep, known)
            assert left(run) == [at for at in saved if stays(at, saved, keep)]
            assert left(run)[-1] == seen
            if killed is not None:
                known = {}
                run.write(f"{name_of(seen + killed)}/state.json", "{}")


@pytest.mark.parametrize(("keep", "expected"), [(1, [300]), (2, [200, 300]), (9, [100, 200, 300])])
def test_the_newest_stay(run: Directory, keep: int, expected: list[int]):
    for seen in (100, 200, 300):
        put(run, seen)
    assert thinned(run, 300, Keep(keep)) == expected


def test_the_best_stay_beside_the_newest(run: Directory):
    for seen, score in enumerate([3.0, 1.0, None, 1.0, 2.0, 9.0]):
        put(run, seen, score)
    assert thinned(run, 5, Keep(1, best=3)) == [1, 3, 4, 5]
    assert thinned(run, 5, Keep(1, best=1)) == [3, 5]  # of equal ones the newer


def test_the_first_after_each_multiple_stays_for_good(run: Directory):
    for seen in (5, 9, 10, 15, 31, 39, 41):
        put(run, seen)
        thinned(run, seen, Keep(1, every_images=10))
    assert left(run) == [10, 31, 41]


def test_what_lies_beyond_the_newest_goes_and_takes_no_place(run: Directory):
    for seen, score in [(100, 2.0), (200, 3.0), (300, 1.0)]:
        put(run, seen, score)
    assert thinned(run, 200, Keep(1, best=1)) == [100, 200]


@pytest.mark.parametrize("file", ["manifest.json", "state.json"])
def test_an_unfinished_one_goes_and_takes_no_place(run: Directory, file: str):
    for seen in (100, 200, 300):
        put(run, seen, 1.0 / seen)
    run.remove(f"{name_of(200)}/{file}")
    assert thinned(run, 300, Keep(2)) == [100, 300]


def test_one_with_a_damaged_state_goes(run: Directory):
    for seen in (100, 200, 300):
        put(run, seen, 1.0)
    run.write(f"{name_of(200)}/state.json", '{"score": ')
    assert thinned(run, 300, Keep(9, 9)) == [100, 300]


def test_one_of_a_version_without_scores_has_none(run: Directory):
    for seen in (100, 200):
        put(run, seen)
    run.write(f"{name_of(100)}/state.json", "{}")
    assert thinned(run, 200, Keep(2, 2)) == [100, 200]
    assert thinned(run, 200, Keep(1, 2)) == [200]


def test_one_that_cannot_be_read_now_stays_and_is_read_again(run: Directory):
    known = {}
    for seen in (100, 200, 300):
        put(run, seen)
    state = Path(run.url, name_of(100), "state.json")
    content = state.read_bytes()
    state.unlink()
    state.mkdir()  # reading a directory is an error, where reading nothing is none
    assert thinned(run, 300, Keep(2), known) == [100, 200, 300]
    state.rmdir()
    state.write_bytes(content)
    assert thinned(run, 300, Keep(2), known) == [200, 300]


def test_the_newest_stays_whatever_can_be_read_of_it(run: Directory):
    for seen in (100, 200, 300):
        put(run, seen, 1.0)
    run.remove(f"{name_of(300)}/state.json")
    assert thinned(run, 300, Keep(1)) == [300]


def test_what_a_checkpoint_says_is_read_once(run: Directory):
    known = {}
    for seen, score in [(100, 1.0), (200, 2.0)]:
        put(run, seen, score)
        thinned(run, seen, Keep(1, best=1), known)
    put(run, 100, 9.0)
    put(run, 300, 3.0)
    assert thinned(run, 300, Keep(1, best=1), known) == [100, 300]
    assert known == {name_of(100): 1.0, name_of(300): 3.0}


def test_a_harness_keeps_what_it_is_told_to(run: Directory, tmp_path: Path):
    harness = in_directory(run, Keep(newest=1, best=1, every_images=40))
    for seen, score in [(10, 2.0), (20, 1.0), (30, 3.0), (41, 4.0), (42, None)]:
        content = tmp_path / str(seen)
        content.mkdir()
        (content / "state.json").write_text(json.dumps({"score": score}))
        harness.save(content, seen, None)
    assert left(run) == [20, 41, 42]
