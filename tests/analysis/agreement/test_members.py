"""How much sets share, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mi_sweeps.analysis.agreement.members import chance, jaccard, nogueira

SETS = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0]], bool)


def test_stability_is_that_worked_out_by_hand():
    phi, low, high = nogueira(SETS)
    # p = 1, 2/3, 1/3, 0: variances 0, 1/3, 1/3, 0, mean 1/6, by 1/2 · 1/2.
    assert phi == pytest.approx(1 / 3)
    # The sets' parts are 1, 1 and 2/3: variance 4/(3·2) · 6/81; t with 2 degrees of freedom is 4.303.
    assert high - phi == pytest.approx(4.3027 * np.sqrt(4 / 81), abs=1e-3) and phi - low == pytest.approx(high - phi)
    assert nogueira(SETS[1:])[0] == pytest.approx(0.0)
    assert nogueira(np.array([[1, 0], [0, 1]], bool))[0] == pytest.approx(-1.0)


def test_equal_sets_have_no_interval_and_empty_ones_no_stability():
    phi, low, high = nogueira(SETS[:2])
    assert phi == 1 and np.isnan([low, high]).all()
    assert np.isnan(nogueira(np.zeros((3, 4), bool))).all() and np.isnan(nogueira(SETS[:1])).all()


def test_jaccard_is_the_mean_over_pairs():
    assert jaccard(SETS) == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)


def test_chance_is_hypergeometric():
    # Two sets of 2 out of 4: 1/6 share both, 4/6 share one (a third of three members).
    expected, p = chance(4, 2, 2, 1.0)
    assert expected == pytest.approx(1 / 6 + 4 / 6 / 3) and p == pytest.approx(1 / 6)
    many, p = chance(4, 2, 4, 1.0)
    assert many == pytest.approx(expected) and p == pytest.approx(1 / 216, abs=0.005)
    assert chance(4, 2, 4, 0.0)[1] == pytest.approx(1)
