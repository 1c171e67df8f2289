"""Sentences that verdicts warrant."""

from __future__ import annotations

import numpy as np

from mi_sweeps.analysis.inference.courses import courses
from mi_sweeps.analysis.inference.differences import difference
from mi_sweeps.analysis.inference.families import Family
from mi_sweeps.analysis.inference.words import differences, sentences

from .planted import planted


def said(family: Family) -> str:
    return " ".join(sentences(family, courses(family)))


def test_what_matters_is_named_with_its_interval_and_the_rest_is_counted():
    recovered = np.zeros((6, 4))
    recovered[3:, 1] = 0.9
    told = said(planted(recovered, runs=3))
    assert told.startswith("At checkpoint 40 0.1 (0.90 [")
    assert "All other 3 heads are small" in told and "Formed in training: 0.1 at checkpoint 24" in told
    assert "n 48 prompts, 3 runs; other prompts and other seeds; 4 heads × 6 checkpoints" in told


def test_where_nothing_matters_it_says_so():
    told = said(planted(np.zeros((6, 4))))
    assert told.startswith("No head is shown to matter at checkpoint 40. All 4 heads are small")
    assert "Formed" not in told and "not other seeds" in told


def test_where_nothing_can_be_told_it_says_so():
    told = said(planted(np.zeros((2, 3)), noise=5.0, prompts=6))
    assert "No head is shown to matter" in told and "Of the 3 heads nothing can be told" in told


def test_without_a_gap_there_is_nothing_to_bring_back():
    told = said(planted(np.full((6, 2), 0.9), gap=np.array([4, 4, 4, 4, 0, 0.0])))
    assert told.startswith("At checkpoint 40 the corruption makes no measurable difference")
    assert "Mattered before: 0.0 (up to 0.9" in told and "matter (" not in told


def test_runs_of_which_one_has_no_gap_are_not_said_to_have_none():
    told = said(planted(np.full((6, 2), 0.9), gap=np.array([4, 4, 4, 4, 0, 0.0]), runs=2))
    assert "no measurable difference in at least one of the 2 runs" in told
    assert "nothing for a patch to bring back" not in told and "nothing left" not in told


def test_lost_heads_and_those_that_changed_sign_are_named():
    recovered = np.zeros((6, 3))
    recovered[:3, 0], recovered[:3, 1], recovered[3:, 1] = 0.9, -0.5, 0.5
    told = said(planted(recovered))
    assert "Lost: 0.0 (up to 0.90, last at checkpoint 16)" in told
    assert "Changed sign: 0.1 (up to" in told


def test_many_heads_are_counted_and_not_all_named():
    told = said(planted(np.full((2, 30), 0.5)))
    assert "and 22 more matter" in told


def test_a_difference_says_which_way_and_of_what():
    told = " ".join(differences(difference(planted(np.array([[0.9, 0.0]])), planted(np.array([[0.5, 0.0]])))))
    assert told.startswith("Less at checkpoint 0: 0.0 (-0.4") and "1 alike within 0.05" in told
