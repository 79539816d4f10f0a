import math
import re
from fractions import Fraction
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_diffusion.page.histogram import FLOOR, MOST_BINS, TOP, bins, histogram

whole = st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=200)
real = st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=200)


@given(whole | real)
def test_every_value_is_in_the_one_bin_whose_bounds_hold_it(values: list[float]):
    found = bins(values)
    assert all(before.stop == after.start for before, after in pairwise(found))
    for start, stop, frequency in found:
        assert frequency == sum(start <= value < stop for value in values)
    assert sum(bin.frequency for bin in found) == len(values)


@given(whole | real)
def test_bins_are_few_and_the_outer_ones_are_not_empty(values: list[float]):
    found = bins(values)
    assert len(found) <= MOST_BINS + 2
    assert found[0].frequency
    assert found[-1].frequency


@given(whole | real)
def test_edges_are_multiples_of_a_round_number(values: list[float]):
    regular = [bin for bin in bins(values) if bin.stop < math.inf]
    widths = {Fraction(str(bin.stop)) - Fraction(str(bin.start)) for bin in regular}
    (width,) = widths
    digits = str(width.numerator * width.denominator).rstrip("0")
    assert digits in {"1", "2", "5"}
    assert all(Fraction(str(bin.start)) % width == 0 for bin in regular)


@given(whole)
def test_integers_have_integer_edges(values: list[int]):
    edges = [edge for bin in bins(values) for edge in (bin.start, bin.stop)]
    assert all(isinstance(edge, int) or edge == math.inf for edge in edges)


def test_a_range_of_many_values_gets_many_bins():
    assert 12 <= len(bins(range(1000))) <= MOST_BINS + 1


def test_few_integers_have_a_bin_each():
    assert bins([3, 5, 5, 7]) == [(3, 4, 1), (4, 5, 0), (5, 6, 2), (6, 7, 0), (7, 8, 1)]


def test_three_tenths_are_at_an_edge():
    assert (0.3, 0.31, 1) in bins([0.1, 0.3])


def test_a_long_tail_is_one_bin():
    values = [*range(100)] * 10 + [10_000, 20_000, 10**6]
    *regular, last = bins(values)
    assert (last.start, last.stop, last.frequency) == (100, math.inf, 3)
    assert regular[-1].stop == 100
    assert len(regular) == 20


def test_half_as_much_again_is_no_long_tail():
    assert bins([*range(100)] * 10 + [140])[-1].stop < math.inf


def test_the_last_hundredth_alone_is_no_long_tail_where_all_else_is_one_value():
    assert bins([32] * 999 + [1000])[-1].stop < math.inf


@pytest.mark.parametrize("value", [0, 1, 512, 0.0, 1.0, 1e-9, -3.5])
def test_one_value_alone_is_one_bin(value: float):
    ((start, stop, frequency),) = bins([value] * 7)
    assert start <= value < stop
    assert frequency == 7


@pytest.mark.parametrize("values", [[1.0, math.nextafter(1, 2)], [1e9, 1e9 + 1e-6]])
def test_values_that_differ_by_rounding_share_a_bin(values: list[float]):
    assert [bin.frequency for bin in bins(values)] == [2]


def drawn(values: list[float], label: str = "pixels", counted: str = "images"):
    """Bars by what they say, texts by what they say, and the frame."""
    svg = ElementTree.fromstring(histogram(values, label, counted))
    bars = {}
    for bar in svg.iter("rect"):
        text, _, count = str(bar.findtext("title")).rpartition(": ")
        bars[text] = (int(count.replace(",", "")), {k: float(v) for k, v in bar.attrib.items()})
    return bars, {text.text: text.attrib for text in svg.iter("text")}, svg


def test_bars_are_as_high_as_they_say_and_fit():
    bars, _, svg = drawn([1, 2, 2, 2, 2, 3, 3])
    assert {text: count for text, (count, _) in bars.items()} == {"1": 1, "2": 4, "3": 2}
    for count, box in bars.values():
        assert box["height"] == pytest.approx(count / 4 * (FLOOR - TOP), abs=0.1)
        assert box["y"] + box["height"] == pytest.approx(FLOOR, abs=0.1)
    _, _, width, height = map(float, svg.attrib["viewBox"].split())
    assert all(box["x"] + box["width"] <= width and height > FLOOR for _, box in bars.values())
    for (_, before), (_, after) in pairwise(bars.values()):
        assert before["x"] + before["width"] < after["x"]


def test_numbers_stand_below_the_edges_they_name():
    bars, texts, _ = drawn([*range(0, 1000, 7)])
    marked = 0
    for text, (_, box) in bars.items():
        start = text.split(" to ")[0]
        if start in texts:
            assert float(texts[start]["x"]) == pytest.approx(box["x"], abs=0.1)
            marked += 1
    assert 3 <= marked <= 8
    _, last = bars["950 to 1,000"]
    assert float(texts["1,000"]["x"]) == pytest.approx(last["x"] + last["width"], abs=2)


def test_numbers_stand_below_the_middle_of_a_bar_that_holds_one_number():
    bars, texts, _ = drawn([4, 5, 6, 6])
    for text, (_, box) in bars.items():
        middle = box["x"] + box["width"] / 2
        assert float(texts[text]["x"]) == pytest.approx(middle, abs=1)


def test_the_last_bar_of_a_long_tail_says_where_it_begins():
    bars, texts, _ = drawn([*range(1, 2000)] * 2 + [10**6] * 5)
    (tail,) = [text for text in bars if text.startswith("≥")]
    assert bars[tail][0] >= 5
    assert tail in texts
    shown = [float(text["x"]) for text in texts.values() if float(text["y"]) == FLOOR + 16]
    assert max(shown) - sorted(shown)[-2] >= 70  # no number is written over it


def test_lines_across_are_at_the_counts_they_name():
    _, texts, svg = drawn([1] * 9 + [2] * 3)
    lines = [float(line.attrib["y1"]) for line in svg.iter("line")]
    named = [t for t in ("0", "5") if t in texts]
    assert named == ["0", "5"]
    assert lines == pytest.approx([FLOOR, FLOOR - 5 / 9 * (FLOOR - TOP)], abs=0.1)


def test_axes_have_names_and_names_are_text():
    evil = "<b>&'\""
    _, texts, svg = drawn([1, 2], evil, "images " + evil)
    assert {evil, "images " + evil} <= set(texts)
    assert svg.attrib["aria-label"] == f"images {evil} by {evil}"


def test_colours_come_from_the_page_alone():
    assert not re.search("fill|stroke|style|#", histogram([1, 2, 3], "pixels", "images"))
