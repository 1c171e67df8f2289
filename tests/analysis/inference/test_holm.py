"""Holm's method, against statsmodels'."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from mi_sweeps.analysis.inference.holm import holm


@pytest.mark.slow
def test_what_is_shown_is_what_statsmodels_says():
    random = np.random.default_rng(0)
    for size in (1, 2, 7, 40):
        for _ in range(2):  # it looks for garbage each time, which takes half a second
            p = random.random(size) ** random.integers(1, 9)
            assert (holm(p) == multipletests(p, 0.05, method="holm")[0]).all()
    assert holm(p.reshape(2, -1)).shape == (2, 20)
    assert holm(np.array([])).tolist() == []


def test_a_test_that_is_not_defined_shows_nothing_and_counts():
    assert holm(np.array([np.nan, 0.04])).tolist() == [False, False]
    assert holm(np.array([np.nan, 0.02])).tolist() == [False, True]
