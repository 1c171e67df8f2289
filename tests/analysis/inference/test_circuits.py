"""Verdicts on circuits, with planted values."""

from __future__ import annotations

import numpy as np
import pytest

from mi_sweeps.analysis.inference import circuits
from mi_sweeps.analysis.inference.circuits import Complete, Faithful, Minimal, Needed
from mi_sweeps.analysis.inference.estimates import interval

N = 24
RANDOM = np.random.default_rng(0)
NOTHING = -1.0 + 0.2 * RANDOM.standard_normal((1, 1, N))
WHOLE = 3.0 + 0.2 * RANDOM.standard_normal((1, 1, N))


def of(*shares, noise=0.1, gap=WHOLE - NOTHING):
    """F of places with these true values, and both simultaneous ends."""
    shares = np.array(shares, dtype=float)[None, :, None]
    m = NOTHING + shares * gap + noise * RANDOM.standard_normal((1, shares.shape[1], N))
    found = circuits.faithfulness(m, NOTHING, NOTHING + gap)
    return found, *circuits.simultaneous(found, np.zeros(len(found.n), dtype=int))


def test_what_is_near_1_is_faithful_and_no_other():
    found, low, high = of(1.0, 1.1, 0.2, 1.6, 0.8)
    words = circuits.faithful(found, low, high)
    assert words == [Faithful.FAITHFUL, Faithful.FAITHFUL, Faithful.NOT, Faithful.NOT, Faithful.UNDECIDED]
    assert found.recovered == pytest.approx([1.0, 1.1, 0.2, 1.6, 0.8], abs=0.03)
    alone, _ = interval(found, seeds=False)
    assert (low < alone).all(), "for all places at once"


def test_all_and_nothing_are_1_and_0_and_without_a_gap_undefined():
    found, low, high = of(1.0, 0.0, noise=0.0)
    assert found.recovered.tolist() == pytest.approx([1.0, 0.0]) and low == pytest.approx(high, abs=1e-6)
    found, low, high = of(1.0, 0.0, gap=0.5 * RANDOM.standard_normal((1, 1, N)))
    assert circuits.faithful(found, low, high) == [Faithful.UNDEFINED] * 2
    assert circuits.complete(found, low, high) is Complete.UNDEFINED
    assert circuits.needed(found, low, high) is Needed.UNDEFINED


def test_a_circuit_is_complete_only_if_every_difference_is_small():
    assert circuits.complete(*of(0.0, 0.05, -0.1)) is Complete.COMPLETE
    assert circuits.complete(*of(0.0, -0.9, 0.0)) is Complete.NOT
    assert circuits.complete(*of(0.0, 0.2, 0.0)) is Complete.UNDECIDED
    assert circuits.complete(*of(0.0, 0.0, noise=3.0)) is Complete.UNDECIDED, "a wide interval is no small difference"


def test_a_member_is_needed_if_it_is_missed_for_some_k():
    assert circuits.needed(*of(0.0, 0.5)) is Needed.NEEDED
    assert circuits.needed(*of(0.0, 0.0, noise=0.001)) is Needed.NOT
    assert circuits.needed(*of(0.0, 0.01)) is Needed.UNDECIDED
    assert circuits.minimal([Needed.NEEDED, Needed.NEEDED]) is Minimal.MINIMAL
    assert circuits.minimal([Needed.NEEDED, Needed.NOT, Needed.UNDECIDED]) is Minimal.NOT
    assert circuits.minimal([Needed.NEEDED, Needed.UNDECIDED]) is Minimal.UNDECIDED
    assert circuits.minimal([]) is Minimal.UNDEFINED


def test_false_verdicts_are_rare():
    """24 circuits at the border of what is faithful, and 24 differences at that of what is small."""
    wrong = [0, 0]
    for _ in range(60):
        found, low, high = of(*[1 + circuits.FAITHFUL] * 24, noise=0.5)
        wrong[0] += Faithful.FAITHFUL in circuits.faithful(found, low, high)
        wrong[1] += circuits.needed(*of(*[circuits.MINIMAL] * 24, noise=0.5)) is Needed.NEEDED
    assert max(wrong) <= 8, "5% of 60 are 3"


def test_areas_are_trapezoids_over_the_share_of_nodes():
    sizes = np.array([0.01, 0.1, 0.5, 1.0])
    shares = np.array([0.0, 0.5, 1.4, 1.0])[None, :, None]
    m = NOTHING + shares * (WHOLE - NOTHING)
    area, far = circuits.cpr(sizes, m, NOTHING, WHOLE), circuits.cmd(sizes, m, NOTHING, WHOLE)
    assert area.recovered == pytest.approx([np.trapezoid(shares.ravel(), sizes)])
    assert far.recovered == pytest.approx([np.trapezoid(np.abs(1 - shares.ravel()), sizes)])
    perfect = circuits.cpr(sizes, WHOLE + 0 * shares, NOTHING, WHOLE)
    assert perfect.recovered == pytest.approx([0.99]), "from the smallest size to the largest"
