"""Intervals of means and correlations, against other libraries and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mi_sweeps.analysis.inference.estimates import mean_interval
from mi_sweeps.analysis.inference.means import compare, correlation, mean


def at_once(places: int) -> np.ndarray:
    return np.zeros(places, int)


def test_a_place_alone_has_the_interval_of_a_mean():
    random = np.random.default_rng(0)
    values = random.normal(size=(3, 5, 24)) + random.normal(size=(3, 5, 1))
    values[:, 2, :9] = np.nan
    found = mean(values, at_once(5))
    for ours, theirs in zip((found.value, found.low, found.high), mean_interval(values), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9)
    assert (found.lowest < found.low).all() and (found.highest > found.high).all() and found.seeds
    one = mean(values[:1], at_once(5))
    low, high = stats.t.interval(0.95, 23, values[0, 0].mean(), stats.sem(values[0, 0]))
    assert (one.low[0], one.high[0]) == pytest.approx((low, high)) and not one.seeds


def test_none_of_many_places_without_a_difference_differs_from_zero():
    wrong = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        found = mean(random.normal(size=(1, 30, 24)) + random.normal(size=(1, 1, 24)), at_once(30))
        wrong += bool(((found.lowest > 0) | (found.highest < 0)).any())
    assert wrong <= 12, "5 of 100 are to be expected"


@pytest.mark.parametrize("true", [0.0, 0.7])
def test_intervals_of_a_correlation_hold_it(true):
    random = np.random.default_rng(1)
    x, noise = random.normal(size=(2, 1, 1000, 36))
    found = correlation(x, true * x + np.sqrt(1 - true**2) * noise, at_once(1000))
    assert found.value[0] == pytest.approx(np.corrcoef(x[0, 0], (true * x + np.sqrt(1 - true**2) * noise)[0, 0])[0, 1])
    assert ((found.low < true) & (true < found.high)).mean() == pytest.approx(0.95, abs=0.02)


def test_a_prompts_influence_is_what_leaving_it_out_changes():
    random = np.random.default_rng(2)
    x, noise = random.normal(size=(2, 1, 1, 12))
    y = x + noise
    found = correlation(x, y, at_once(1))
    left = [np.arctanh(np.corrcoef(*(np.delete(part[0, 0], one) for part in (x, y)))[0, 1]) for one in range(12)]
    half = stats.t.ppf(0.975, 11) * np.sqrt(11 / 12 * np.square(left - np.mean(left)).sum())
    assert found.high[0] == pytest.approx(np.tanh(np.arctanh(found.value[0]) + half))


def test_what_does_not_vary_correlates_with_nothing():
    x, y = np.random.default_rng(3).normal(size=(2, 1, 3, 12))
    y[0, 1], y[0, 2, 2:] = 0.3 + 1e-8 * y[0, 1], np.nan
    found = correlation(x, y, at_once(3))
    assert np.isfinite(found.value[0]) and np.isnan(found.value[1:]).all(), "constant but for rounding; two prompts"


def test_bounds_decide_on_differences():
    random = np.random.default_rng(4)
    middle = np.array([0.5, -0.5, 0.0, 0.01, 0.06])
    spread = np.array([0.1, 0.1, 0.01, 0.01, 0.2])
    values = middle[:, None] + spread[:, None] * random.permuted(np.tile(np.linspace(-1, 1, 24), (5, 1)), axis=1)
    values = np.concatenate([values[None], np.full((1, 5, 24), np.nan)])[:1]
    assert compare(mean(values, at_once(5))).tolist() == ["more", "less", "alike", "alike", "undecided"]
    assert compare(mean(np.full((1, 1, 24), np.nan), at_once(1))).tolist() == ["undefined"]
