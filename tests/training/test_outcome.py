"""Runs that ended worse than they began."""

from __future__ import annotations

from itertools import product

import pytest
from statsmodels.stats.proportion import confint_proportions_2indep

from mi_sweeps.tasks.metrics import wilson
from mi_sweeps.training.outcome import WORSE, outcome


def rates(wins: int, n: int) -> dict[str, float]:
    low, high = wilson(wins, n)
    return {"win_rate": wins / n, "win_rate_low": low, "win_rate_high": high}


@pytest.mark.parametrize("n", [12, 240])
def test_it_is_worse_where_the_interval_of_the_difference_is_below_0(n: int) -> None:
    for first, last in product(range(0, n + 1, n // 12), repeat=2):
        _, high = confint_proportions_2indep(last, n, first, n, compare="diff", method="newcomb")
        assert (outcome(rates(first, n), rates(last, n)) == WORSE) == (high < 0), (first, last)


def test_a_collapse_and_a_wobble() -> None:
    assert outcome(rates(89, 240), rates(7, 240)) == WORSE
    assert outcome(rates(89, 240), rates(80, 240)) == ""
    assert outcome(rates(7, 240), rates(89, 240)) == ""


def test_without_intervals_there_is_no_outcome() -> None:
    assert outcome({"win_rate": 0.9}, {"win_rate": 0.1}) == outcome({}, {}) == ""
