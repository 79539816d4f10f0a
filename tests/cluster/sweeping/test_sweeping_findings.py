"""What a sweep has found, of trials as a journal would hold them."""

from some_findings import TOTAL_IMAGES, findings, trial


def test_the_best_that_has_finished_wins():
    found = findings(
        trial(0, "stopped", {500: 0.1}),
        trial(1, "finished", {TOTAL_IMAGES: 0.3}),
        trial(2, "finished", {TOTAL_IMAGES: 0.2}),
    )
    assert [one.name for one in found.finished] == ["trial-0002", "trial-0001"]
    assert found.winner is found.finished[0]


def test_nobody_wins_without_a_figure():
    """As of sample/fd, where there are too few images to measure it."""
    assert findings(trial(0, "finished"), trial(1)).winner is None


def test_images_are_saved_of_the_length_that_a_trial_has():
    longer = {"training.total_images": 4 * TOTAL_IMAGES}
    found = findings(
        trial(0, "finished", {TOTAL_IMAGES: 0.3}),
        trial(1, "stopped", {TOTAL_IMAGES: 0.4}, longer),
        trial(2, "stopped", {250: 0.5}),
    )
    assert found.images_saved == 3 * TOTAL_IMAGES + 750
