import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_diffusion.errors import UsageError
from ray_diffusion.evaluation.compare import FINGERPRINTS, OF_IMAGES, beats, rank


def evaluation(
    model: str,
    value: float,
    better: str = "lower",
    count: int = 359,
    metric: str = "sample/fd",
    **other: str,
) -> dict[str, Any]:
    """An evaluation of one figure, and other fingerprints by name."""
    names = {name: f"{name}-1" for name in FINGERPRINTS} | other
    figure = {"value": value, "floor": 0.3, "count": count, "better": better}
    fingerprints = {f"{name}_fingerprint": found for name, found in names.items()}
    return fingerprints | {"model": model, "figures": {metric: figure}}


values = st.lists(st.floats(allow_nan=False), min_size=1)


@given(values)
def test_the_best_comes_first_whichever_way_is_better(found: list[float]):
    for better, expected in (("lower", sorted(found)), ("higher", sorted(found, reverse=True))):
        models = [evaluation(f"runs/{i}", value, better) for i, value in enumerate(found)]
        ranked = rank(models, "sample/fd")
        assert [model["figures"]["sample/fd"]["value"] for model in ranked] == expected


@given(values)
def test_models_that_are_as_good_keep_their_order(found: list[float]):
    models = [evaluation(f"runs/{i}", 1.0) for i, _ in enumerate(found)]
    assert rank(models, "sample/fd") == models


def test_a_figure_that_is_no_number_comes_last():
    for better in ("lower", "higher"):
        models = [evaluation("diverged", math.nan, better), evaluation("fine", 1e9, better)]
        assert [model["model"] for model in rank(models, "sample/fd")] == ["fine", "diverged"]


def test_nothing_is_ranked_as_nothing():
    assert rank([], "sample/fd") == []


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        *itertools.product(["val/score", "likelihood/vlb_bpd"], FINGERPRINTS),
        *itertools.product(["sample/fd", "sample/recall"], OF_IMAGES),
    ],
)
def test_models_with_different_fingerprints_do_not_compare(metric: str, name: str):
    other = evaluation("runs/c", 0.5, metric=metric, **{name: "other"})
    models = [evaluation(f"runs/{one}", 1.0, metric=metric) for one in "ab"]
    with pytest.raises(UsageError) as error:
        rank([*models, other], metric)
    assert str(error.value) == (
        f"{metric} does not compare: runs/a was evaluated with {name} {name}-1, "
        "runs/c with other; evaluate them in the same way"
    )


def test_drawn_images_compare_whatever_their_models_work_on():
    latent = evaluation("latent", 0.5, codec="block-dct-0123456789ab", score="other")
    pixels = evaluation("pixels", 1.0, codec="identity")
    assert rank([pixels, latent], "sample/fd") == [latent, pixels]
    how = {"seeds": [0], "sampler": {"solver": "ddim"}}
    assert beats(latent | how, pixels | how, "sample/fd")
    assert not beats(pixels | how, latent | how, "sample/fd")


def test_figures_of_different_numbers_of_images_do_not_compare():
    models = [evaluation("runs/a", 1.0), evaluation("runs/b", 0.5, count=200)]
    with pytest.raises(UsageError, match=r"runs/a was .+ number of images 359, runs/b with 200"):
        rank(models, "sample/fd")


def test_a_figure_that_was_not_measured_is_named_with_those_that_were():
    with pytest.raises(UsageError) as error:
        rank([evaluation("runs/a", 1.0)], "val/score")
    assert str(error.value) == (
        "runs/a cannot be ranked by val/score: its evaluation has sample/fd"
    )


def drawn(model: str, value: float, better: str = "lower", **how: object) -> dict[str, Any]:
    return evaluation(model, value, better) | {"seeds": [0, 1], "sampler": {"solver": "ddim"}} | how


@given(st.floats(), st.floats())
def test_a_model_beats_another_one_when_it_is_strictly_better(ours: float, theirs: float):
    for better, sign in (("lower", 1), ("higher", -1)):
        found = beats(drawn("new", ours, better), drawn("old", theirs, better), "sample/fd")
        worst = math.isnan(theirs) and abs(ours) != math.inf
        assert found == (sign * ours < sign * theirs or (worst and not math.isnan(ours)))


@given(st.floats())
def test_without_a_rival_any_number_is_good_enough(value: float):
    assert beats(drawn("first", value), None, "sample/fd") == (not math.isnan(value))


@pytest.mark.parametrize(
    ("what", "other"),
    [("seeds", [0]), ("sampler", {"solver": "ddpm"}), ("features_fingerprint", "x")],
)
def test_what_was_drawn_in_another_way_is_not_beaten(what: str, other: object):
    champion = drawn("old", 1.0, **{what: other})
    with pytest.raises(UsageError, match=r"sample/fd does not compare: old was .+, new with"):
        beats(drawn("new", 0.5), champion, "sample/fd")


def test_figures_that_are_not_of_drawn_images_compare_however_those_were_drawn():
    new, old = drawn("new", 0.5), drawn("old", 1.0, seeds=[7], sampler={"solver": "ddpm"})
    for model in (new, old):
        model["figures"] = {"val/score": model["figures"]["sample/fd"]}
    assert beats(new, old, "val/score")
