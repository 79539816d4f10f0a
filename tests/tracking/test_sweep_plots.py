import io
import math

import numpy as np
from matplotlib.image import imread

from ray_diffusion.tracking.sweep_plots import BEST, INK, plot_quality, plot_rungs

CURVES = {"a": {1000: 1.0, 2000: 0.5}, "b": {1000: 2.0}, "c": {}}


def pixels(png: bytes, color: str = "") -> int:
    """How many pixels a picture of 900 x 540 has, of a colour if one is given."""
    image = imread(io.BytesIO(png))[..., :3]
    assert image.shape == (540, 900, 3)
    wanted = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return int((np.abs(image - wanted).max(-1) < 0.01).sum())


def test_the_best_trial_stands_out():
    assert pixels(plot_rungs("sweep", "val/score", CURVES, ["b"], [1500], "a"), BEST) > 100
    assert pixels(plot_rungs("sweep", "val/score", CURVES, ["b"], [1500], None), BEST) == 0
    points = {"a": (1.0, 2.0), "b": (2.0, 1.0)}
    assert pixels(plot_quality("sweep", "sample/fd", points, "a"), BEST) > 10
    assert pixels(plot_quality("sweep", "sample/fd", points, "a"), INK) > 10


def test_what_is_no_number_or_far_apart_is_drawn_too():
    curves = {"a": {1: math.nan, 2: 1e-3, 3: 1e3}, "b": {1: math.inf}, "c": {1: math.nan}}
    assert pixels(plot_rungs("x", "val/score", curves, [], [], "b"), INK) > 100
    assert pixels(plot_quality("x", "sample/fd", {"a": (1, 2), "b": (1, math.nan)}, None), INK)


def test_without_trials_there_is_no_picture():
    assert plot_rungs("sweep", "val/score", {"a": {}}, [], [100], None) == b""
    assert plot_quality("sweep", "sample/fd", {"a": (1, math.nan)}, "a") == b""


def test_the_same_trials_give_the_same_picture():
    drawn = {plot_rungs("sweep", "val/score", CURVES, [], [1500], "a") for _ in range(2)}
    assert len(drawn) == 1
