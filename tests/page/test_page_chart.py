import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from page_reader import read

from ray_diffusion.page.chart import (
    FLOOR,
    INSET,
    TOP,
    WIDTH,
    Dot,
    Line,
    bars,
    chart,
    legend,
    series,
    shade,
)
from ray_diffusion.page.parallel import FLOOR as AXES_FLOOR
from ray_diffusion.page.parallel import TOP as AXES_TOP
from ray_diffusion.page.parallel import Axis, Path, parallel
from ray_diffusion.page.scale import Categories, Scale

EVIL = "\"><script>alert('&')</script>"


def groups(svg: str) -> dict[str, ElementTree.Element]:
    """Shapes by what a pointer on them is told."""
    return {str(g.findtext("title")): g for g in ElementTree.fromstring(svg).iter("g")}


def points(group: ElementTree.Element) -> list[tuple[float, float]]:
    (line,) = group.iter("polyline")
    return [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]


def texts(svg: str) -> dict[str, dict[str, str]]:
    return {str(t.text): t.attrib for t in ElementTree.fromstring(svg).iter("text")}


def test_a_line_goes_through_its_points_in_their_order():
    found = points(groups(chart("x", "y", [Line("a", [(0, 2), (10, 4), (5, 3)])]))["a"])
    (left, low), (right, high), (middle_x, middle_y) = found
    assert right == WIDTH - 16 - INSET
    assert (low, high) == (FLOOR - INSET, TOP + INSET)  # larger is further up
    assert middle_x == pytest.approx((left + right) / 2, abs=0.1)
    assert middle_y == pytest.approx((low + high) / 2, abs=0.1)


def test_all_lines_and_dots_share_the_axes_and_the_axes_say_so():
    svg = chart("x", "y", [Line("a", [(0, 0), (10, 1)]), Line("b", [(0, 1)])], [Dot("c", 10, 0)])
    found = groups(svg)
    (start, end), (other,) = points(found["a"]), points(found["b"])
    assert (start[0], end[1]) == other
    (circle,) = found["c: 10, 0"].iter("circle")
    assert (float(circle.attrib["cx"]), float(circle.attrib["cy"])) == (end[0], start[1])
    assert float(texts(svg)["10"]["x"]) == end[0]
    assert float(texts(svg)["0.4"]["y"]) - 4 == pytest.approx(
        start[1] + 0.4 * (end[1] - start[1]), abs=0.1
    )


def test_values_that_are_far_apart_are_shown_by_their_logarithm_and_it_says_so():
    svg = chart("x", "y", [Line("a", [(0, 1), (1, 10), (2, 100)])])
    (_, low), (_, middle), (_, high) = points(groups(svg)["a"])
    assert low - middle == pytest.approx(middle - high, abs=0.2)
    assert "y, logarithmic" in texts(svg)


def test_the_horizontal_axis_is_never_logarithmic():
    svg = chart("x", "y", [Line("a", [(1, 1), (50, 2), (99, 3)])])
    (left, _), (middle, _), (right, _) = points(groups(svg)["a"])
    assert middle == pytest.approx((left + right) / 2, abs=0.1)


def test_what_is_no_number_is_left_out():
    nan = math.nan
    lines = [Line("a", [(0, 1), (1, nan), (2, math.inf), (3, 2)]), Line("lost", [(0, nan)])]
    svg = chart("x", "y", lines, [Dot("gone", 1, nan)])
    assert len(points(groups(svg)["a"])) == 2
    assert set(groups(svg)) == {"a"}
    assert "nan" not in svg
    assert "inf" not in svg


def test_nothing_at_all_is_an_empty_chart():
    assert groups(chart("x", "y")) == {}


def test_a_cross_marks_where_a_line_is_broken_off():
    lines = [Line("whole", [(0, 1), (1, 2)]), Line("cut", [(0, 2), (1, 1)], broken_off=True)]
    found = groups(chart("x", "y", lines))
    assert not list(found["whole"].iter("path"))
    (cross,) = found["cut"].iter("path")
    x, y = map(float, re.findall(r"[\d.]+", cross.attrib["d"])[:2])
    assert points(found["cut"])[-1] == (x + 4, y + 4)


def test_a_single_point_can_be_seen():
    found = groups(chart("x", "y", [Line("a", [(1, 1)])]))
    assert list(found["a"].iter("circle"))


def test_dashed_lines_stand_where_they_are_said_to():
    svg = chart("x", "y", [Line("a", [(0, 1), (10, 2)])], verticals={"rung": 5})
    (rung,) = [e for e in ElementTree.fromstring(svg).iter("line") if e.get("class") == "rung"]
    (left, _), (right, _) = points(groups(svg)["a"])
    assert float(rung.attrib["x1"]) == pytest.approx((left + right) / 2, abs=0.1)
    assert float(texts(svg)["rung"]["x"]) == float(rung.attrib["x1"])


def test_what_stands_beside_a_dot_does_not_leave_the_drawing():
    svg = chart("x", "y", dots=[Dot("a", 0, 0, label="left"), Dot("b", 1, 1, label="right")])
    found = texts(svg)
    assert (found["left"]["text-anchor"], found["right"]["text-anchor"]) == ("start", "end")


def test_later_ones_are_drawn_over_earlier_ones_in_the_kind_and_colour_they_have():
    svg = chart("x", "y", [Line("a", [(0, 1)], series(1), "faded"), Line("b", [(0, 1)])])
    assert list(groups(svg)) == ["a", "b"]
    assert groups(svg)["a"].attrib == {"class": "faded", "style": "--c: var(--s1)"}
    assert series(9) == series(1) != series(0)


def test_the_better_is_the_stronger():
    assert shade(0).endswith("0%)")
    assert shade(1).endswith("100%)")


def test_bars_are_as_long_as_their_share():
    html = bars({"a": 0.25, "b": -0.1, "c": 1.2})
    assert re.findall(r"--share: ([\d.]+)", html) == ["0.250", "0.000", "1.000"]
    assert read(html).text == ["a", "0.25", "b", "-0.10", "c", "1.20"]


@pytest.mark.parametrize(
    "html",
    [
        chart(EVIL, "y"),
        chart("x", EVIL),
        chart("x", "y", [Line(EVIL, [(0, 1)])]),
        chart("x", "y", dots=[Dot("a", 0, 1, label=EVIL)]),
        chart("x", "y", verticals={EVIL: 1}),
        legend({EVIL: series(0)}),
        bars({EVIL: 1}),
        parallel([Axis(EVIL, Scale(0, 1)), Axis("b", Scale(0, 1))], []),
        parallel([Axis("a", Scale(0, 1)), Axis("b", Scale(0, 1))], [Path(EVIL, [0, 1], "red")]),
    ],
)
def test_words_are_text(html: str):
    assert EVIL in read(html).text


AXES = [
    Axis("schedule", Categories(("cosine", "linear"))),
    Axis("lr", Scale(1e-4, 1e-2, True)),
    Axis("score", Scale(0, 1)),
]


def test_a_path_crosses_each_axis_at_its_value():
    svg = parallel(AXES, [Path("a", ["linear", 1e-3, 0.25], series(0))])
    axes = [
        float(e.attrib["x1"])
        for e in ElementTree.fromstring(svg).iter("line")
        if e.get("class") == "axis"
    ]
    found = points(groups(svg)["a"])
    assert [x for x, _ in found] == axes
    assert all(after - before > 100 for before, after in pairwise(axes))
    shares = [(AXES_FLOOR - y) / (AXES_FLOOR - AXES_TOP) for _, y in found]
    assert shares == pytest.approx([0.75, 0.5, 0.25], abs=1e-3)
    assert {"schedule", "lr", "score", "cosine", "linear", "0.001"} <= set(texts(svg))


@pytest.mark.parametrize("value", [None, math.nan])
def test_a_path_leaves_out_the_axis_on_which_it_has_no_value(value: float | None):
    svg = parallel(AXES, [Path("a", ["linear", 1e-3, value], "red"), Path("b", ["x", 0, None], "")])
    assert len(points(groups(svg)["a"])) == 2
    assert set(groups(svg)) == {"a"}


def test_many_axes_make_a_drawing_wider_not_denser():
    svg = parallel([Axis(str(i), Scale(0, 1)) for i in range(12)], [])
    width = float(ElementTree.fromstring(svg).attrib["viewBox"].split()[2])
    assert width >= 12 * 100


def test_long_names_of_categories_are_cut():
    svg = parallel([Axis("a", Categories(("x" * 40,))), Axis("b", Scale(0, 1))], [])
    assert "x" * 15 + "…" in texts(svg)
