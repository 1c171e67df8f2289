"""Whether two corruptions go through the same heads: equivalence must be shown."""

from __future__ import annotations

import numpy as np
import pytest

from mi_sweeps.analysis.inference.subjects import Answer, answer, subjects

from .planted import planted


def compared(first, second, noise=0.1, **how):
    one = planted(np.array([first]), noise=noise, **how)
    other = planted(np.array([second]), noise=noise, corruption="second", seed=1)
    return answer(subjects(one, other), 0)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([0.9, 0.0, 0.0], [0.9, 0.0, 0.0], Answer.SAME),
        ([0.9, 0.0, 0.0], [0.6, 0.0, 0.0], Answer.OTHER_AMOUNTS),
        ([0.9, 0.0, 0.0], [0.0, 0.9, 0.0], Answer.DIFFERENT),
        ([0.5, 0.0, 0.0], [-0.5, 0.0, 0.0], Answer.DIFFERENT),
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], Answer.CANNOT_TELL),
    ],
)
def test_the_answer_is_what_was_planted(first, second, expected):
    assert compared(first, second).answer is expected


def test_a_missing_difference_is_no_equivalence():
    found = compared([0.9, 0.0], [0.9, 0.0], noise=3.0)
    assert found.answer in (Answer.CANNOT_TELL, Answer.AMOUNTS_UNDECIDED) and found.undecided == ((0, 0, None),)


def test_heads_are_listed():
    found = compared([0.9, 0.3, 0.0, 0.4], [0.9, 0.6, 0.4, 0.0])
    assert found.alike == ((0, 0, None),) and found.differ == ((0, 1, None), (0, 2, None), (0, 3, None))
    assert found.answer is Answer.DIFFERENT and found.undecided == ()


def test_without_a_gap_under_one_of_them_it_is_undefined():
    assert compared([0.9, 0.0], [0.9, 0.0], gap=0.0).answer is Answer.UNDEFINED
