"""Onsets, each known only to lie between two checkpoints."""

from __future__ import annotations

import numpy as np
import pytest

from mi_sweeps.analysis.inference.courses import Course, HeadCourse
from mi_sweeps.analysis.inference.onset_rows import RunOnset, compared, onset_row
from mi_sweeps.analysis.inference.onsets import (
    Onset,
    When,
    compare,
    distribution,
    enough,
    interval,
    median,
    onset,
    span,
)

STEPS = (0, 8, 16, 24)
INF = float("inf")
KEY = ("all", "full", "first")


def head(course, *onset):
    return HeadCourse((0, 0, None), course, *(onset or (None, None, None)), None, 1.0)


@pytest.mark.parametrize(
    ("course", "expected"),
    [
        (head(Course.FORMED, 16, 8, 24), Onset(0, 3)),
        (head(Course.FROM_THE_START, 0, 0, 0), Onset(-INF, 0)),
        (head(Course.NEVER), Onset(3, INF)),
        (head(Course.UNDECIDED), Onset(-INF, INF)),
        (head(Course.MATTERS), Onset(-INF, 3)),
        (head(Course.LOST), Onset(-INF, 3)),
    ],
)
def test_an_onset_is_as_wide_as_its_course_leaves_open(course, expected):
    assert onset(course, STEPS) == expected


def test_on_these_prompts_an_onset_lies_between_two_checkpoints():
    assert onset(head(Course.FORMED, 16, 8, 24), STEPS, other_prompts=False) == Onset(1, 2)


def test_the_distribution_is_that_of_other_software():
    """lifelines 0.30.3, KaplanMeierFitter.fit_interval_censoring: two thirds after 0, two ninths after 6."""
    found = [Onset(-INF, 0), Onset(2, 6), Onset(4, 8), Onset(4, 6), Onset(8, INF), Onset(-INF, 0)]
    low, high, mass = distribution(found)
    assert (low.tolist(), high.tolist()) == ([-INF, 4, 8], [0, 6, INF])
    assert mass == pytest.approx([1 / 3, 1 / 2, 1 / 6], abs=1e-4)
    assert median(found) == Onset(4, 6)


def test_a_median_between_two_stretches_is_all_from_one_to_the_other():
    assert median([Onset(0, 1), Onset(0, 1), Onset(4, 5), Onset(4, 5)]) == Onset(0, 5)
    assert median([Onset(3, INF)] * 3) == Onset(3, INF)


def test_five_runs_give_a_median_no_interval_and_six_do():
    assert np.isnan(interval(range(5), range(5))[0])
    assert interval(range(6), range(1, 7)) == (0, 6)
    assert interval(range(9), range(9)) == (1, 7)  # one on either side may be beyond it


def test_the_interval_of_a_median_holds_it():
    """Of a skewed distribution, looked at every 8 steps."""
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        at = random.exponential(40, 8)
        low, high = interval(np.floor(at / 8) * 8, np.floor(at / 8) * 8 + 8)
        held += low <= 40 * np.log(2) <= high
    assert held / 400 >= 0.95


def began(*at):
    return [span(Onset(one - 1, one)) for one in at]


@pytest.mark.parametrize(
    ("first", "second", "answer"),
    [
        (began(2, 3, 2, 3, 2, 4), began(5, 6, 5, 5, 6, 7), When.LATER),
        (began(5, 6, 5, 5, 6, 7), began(2, 3, 2, 3, 2, 4), When.EARLIER),
        (began(2, 3, 2, 3, 2, 4), began(3, 3, 2, 3, 1, 4), When.SAME),
        (began(2, 3, 2, 3, 2, 4), began(6, 1, 6, 1, 6, 1), When.UNDECIDED),
        (began(2, 3, 2, 3, 2), began(5, 6, 5, 5, 6), When.UNDECIDED),  # five pairs are too few
        (began(0, 0, 0, 0, 0, 0), began(3, 3, 3, 3, 3, 3), When.LATER),
        (began(2, 3, 2, 3, 2, 4), [span(Onset(9, INF))] * 6, When.LATER),
        ([span(Onset(9, INF))] * 6, [span(Onset(9, INF))] * 6, When.NEITHER),
        (began(2, 3, 2, 3, 2, 4), [span(Onset(-INF, INF))] * 6, When.UNDECIDED),
    ],
)
def test_one_group_is_earlier_or_later_only_where_pairs_of_runs_show_it(first, second, answer):
    assert compare(first, second)[0] is answer


def test_runs_with_other_checkpoints_are_taken_by_their_own_steps():
    """A series with gaps, or a run that stopped, numbers its checkpoints otherwise."""
    sparse = RunOnset(Onset(0, 1), Onset(0, 1), (0, 8, 16, 24, 32))
    dense = RunOnset(Onset(1, 2), Onset(1, 2), (0, 4, 8, 12, 16))
    for found in ([sparse, *[dense] * 6], [*[dense] * 6, sparse]):
        row = onset_row(KEY, (2, 1, None), found)
        assert (row["after"], row["by"], row["low"], row["high"]) == (4, 8, 0, 8)


@pytest.mark.parametrize(("heads", "runs"), [(1, 6), (12, 9), (144, 13)])
def test_more_heads_need_more_runs(heads, runs):
    assert enough(heads) == runs
    for number, answer in ((runs - 1, When.UNDECIDED), (runs, When.LATER)):
        assert compare(began(*[2] * number), began(*[5] * number), heads)[0] is answer


def test_of_twelve_heads_without_a_difference_any_is_called_earlier_or_later_in_5_of_100_sweeps():
    random = np.random.default_rng(0)
    wrong = 0
    for _ in range(400):
        groups = [
            {
                (0, head, None): {f"{run}": ((at, at + 1),) * 2 for run, at in enumerate(onsets)}
                for head, onsets in heads
            }
            for heads in (enumerate(random.integers(1, 40, (12, 9))) for _ in range(2))
        ]
        rows = compared("onset", KEY, KEY, *groups, {f"{run}" for run in range(9)})
        wrong += any(row["answer"] in ("earlier", "later") for row in rows)
    assert wrong / 400 <= 0.07
