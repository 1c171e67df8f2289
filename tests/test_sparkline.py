"""A line of numbers as a line of blocks."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from mi_sweeps.sparkline import BLOCKS, sparkline

finite = st.floats(-1e6, 1e6)
any_value = finite | st.just(math.nan)


@given(st.lists(any_value), st.integers(1, 50))
def test_a_character_for_each_value_up_to_the_width(values, width):
    line = sparkline(values, width=width)
    assert len(line) == min(len(values), width)
    assert set(line) <= {*BLOCKS, " "}


@given(st.lists(any_value, min_size=1, max_size=40))
def test_a_space_where_there_is_no_number_and_nowhere_else(values):
    assert [block == " " for block in sparkline(values)] == [math.isnan(value) for value in values]


@given(st.lists(finite, max_size=40))
def test_a_larger_value_is_never_lower(values):
    line = sparkline(values)
    heights = [BLOCKS.index(block) for _, block in sorted(zip(values, line, strict=True))]
    assert heights == sorted(heights)


@given(st.lists(finite, min_size=2, max_size=40).filter(lambda values: max(values) > min(values)))
def test_the_least_is_at_the_bottom_and_the_largest_at_the_top(values):
    line = sparkline(values)
    assert line[values.index(min(values))] == BLOCKS[0]
    assert line[values.index(max(values))] == BLOCKS[-1]


@given(finite, st.integers(1, 40))
def test_equal_values_are_of_middle_height(value, count):
    assert sparkline([value] * count) == BLOCKS[4] * count


def test_a_scale_that_is_given_says_how_high():
    assert sparkline([0, 0.5, 1], 0, 1) == "▁▅█"
    assert sparkline([0.99], 0, 1) == "█"
    assert sparkline([-3, 7], 0, 1) == "▁█"  # beyond it: its ends


def test_of_many_values_the_first_and_the_last_stay():
    line = sparkline([1.0, *[0.0] * 98, 1.0], width=10)
    assert (line[0], line[-1], set(line[1:-1])) == ("█", "█", {"▁"})
    assert sparkline([], width=3) == ""
