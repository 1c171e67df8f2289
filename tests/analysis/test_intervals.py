"""Bootstrap intervals over runs, against a plain loop and properties of any bootstrap."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_sweeps.analysis.intervals import RESAMPLES, SEED, bootstrap, over_runs
from mi_sweeps.analysis.summaries import band


def resamples(n: int) -> Iterator[list[int]]:
    """Which of n are drawn, by mulberry32 number after number."""
    state, whole = SEED, 0xFFFFFFFF
    for _ in range(RESAMPLES):
        drawn = []
        for _ in range(n):
            state = (state + 0x6D2B79F5) & whole
            mixed = ((state ^ state >> 15) * (state | 1)) & whole
            mixed ^= (mixed + ((mixed ^ mixed >> 7) * (mixed | 61))) & whole
            drawn.append(int((mixed ^ mixed >> 14) / 2**32 * n))
        yield drawn


def test_over_runs_as_a_plain_loop_from_20_runs_on():
    own = np.random.default_rng(0).normal(0.5, 0.1, 20)
    values = pd.DataFrame({"step": [0] * 21 + [8] * 20, "value": [*own, math.nan, *own[:19], math.nan]})
    found = over_runs(values, ["step"]).set_index("step")
    assert found["n"].tolist() == [20, 19]
    means = [own[drawn].mean() for drawn in resamples(20)]
    assert found.loc[0, ["low", "high"]].tolist() == pytest.approx(np.percentile(means, (2.5, 97.5)))
    # Of fewer a bootstrap is too narrow.
    pd.testing.assert_series_equal(found.loc[8], band(values, ["step"]).set_index("step").loc[8])


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=30), st.floats(-5, 5))
def test_a_bootstrap_stays_within_its_values_and_moves_with_them(values, shift):
    low, high = bootstrap(np.array(values))
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert bootstrap(np.array(values) + shift) == pytest.approx((low + shift, high + shift), abs=1e-9)
