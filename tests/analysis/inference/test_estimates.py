"""Recovered over runs and prompts, and its intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mi_sweeps.analysis.inference.estimates import estimate, interval, mean_interval, of_means

from .worlds import world


def test_recovered_is_each_runs_ratio_of_means_and_their_mean():
    gain = np.array([[[1.0, 3.0]], [[2.0, 2.5]]])
    gap = np.array([[[4.0, 4.1]], [[4.5, 4.6]]])
    found = estimate(gain, gap)
    np.testing.assert_allclose(found.of_run[:, 0], [4 / 8.1, 4.5 / 9.1])
    np.testing.assert_allclose(found.recovered, (4 / 8.1 + 4.5 / 9.1) / 2)
    assert (found.n, found.runs) == (2, 2)


def test_the_interval_of_one_run_is_fiellers():
    """Against the textbook's quadratic in the ratio, from the variances of both means."""
    random = np.random.default_rng(0)
    gain, gap = world(random, 1, 3, 20, 0.4, shared=0.3)
    low, high = interval(estimate(gain, gap), seeds=False)
    t = stats.t.ppf(0.975, 19)
    for place in range(3):
        g, r = gain[0, place], gap[0, place]
        (gg, gr), (_, rr) = np.cov(g, r) / 20
        a, b, c = r.mean() ** 2 - t**2 * rr, g.mean() * r.mean() - t**2 * gr, g.mean() ** 2 - t**2 * gg
        root = np.sqrt(b**2 - a * c)
        np.testing.assert_allclose([low[place], high[place]], [(b - root) / a, (b + root) / a])


@pytest.mark.parametrize(
    ("runs", "prompts", "seeds"),
    [(1, 12, 0.0), (3, 12, 0.0), (3, 12, 0.03), (3, 48, 0.01), (5, 48, 0.03), (8, 48, 0.03)],
)
def test_intervals_hold_the_truth_in_95_of_100(runs, prompts, seeds):
    random = np.random.default_rng(runs * prompts)
    hits = []
    for _ in range(40):
        low, high = interval(estimate(*world(random, runs, 50, prompts, 0.3, seeds=seeds)), seeds=runs > 1)
        hits.append((low <= 0.3) & (high >= 0.3))
    assert 0.93 <= np.mean(hits) <= 0.97


def test_over_seeds_alone_or_prompts_alone_it_would_not():
    """What is wrong with a mean over three seeds that share twelve prompts, and with prompts where seeds differ."""
    random = np.random.default_rng(4)
    of_seeds, of_prompts = [], []
    for _ in range(40):
        found = estimate(*world(random, 3, 50, 12, 0.3, shared=0.2))
        half = stats.t.ppf(0.975, 2) * np.sqrt(found.seed_variance)
        of_seeds.append(np.abs(found.recovered - 0.3) <= half)
        low, high = interval(estimate(*world(random, 3, 50, 48, 0.3, seeds=0.1)), seeds=False)
        of_prompts.append((low <= 0.3) & (high >= 0.3))
    assert np.mean(of_seeds) < 0.6
    assert np.mean(of_prompts) < 0.6


def test_two_seeds_are_too_few_for_satterthwaite_and_their_interval_is_wide():
    random = np.random.default_rng(5)
    hits = []
    for _ in range(40):
        low, high = interval(estimate(*world(random, 2, 50, 48, 0.3, seeds=0.03)), seeds=True)
        hits.append((low <= 0.3) & (high >= 0.3))
    assert np.mean(hits) >= 0.95


def test_without_a_gap_nothing_is_defined():
    random = np.random.default_rng(6)
    defined = [estimate(*world(random, 1, 1, 48, 0.5, gap=0.0)).has_gap[0] for _ in range(400)]
    assert np.mean(defined) <= 0.06
    found = estimate(*world(random, 1, 1, 48, 0.5, gap=0.036, gap_spread=0.35))  # as the control `order` has it
    assert not found.has_gap[0] and np.isnan(found.recovered[0]) and np.isnan(interval(found, seeds=False)).all()


def test_a_gap_of_rounding_alone_is_none():
    gap = np.full((1, 1, 12), 5e-6) + np.linspace(0, 1e-7, 12)
    assert not estimate(0.5 * gap, gap).has_gap[0]


def test_a_gap_must_be_there_in_every_run():
    random = np.random.default_rng(7)
    gain, gap = world(random, 2, 1, 48, 0.5)
    gap[1] -= gap[1].mean()
    assert not estimate(gain, gap).has_gap[0]


def test_settings_are_not_taken_for_seeds():
    """Two settings of two runs: what differs between the settings widens nothing."""
    random = np.random.default_rng(8)
    gain, gap = world(random, 4, 1, 48, np.array([0.2, 0.2, 0.8, 0.8])[:, None, None], shared=0.01, own=0.01)
    apart, together = estimate(gain, gap, ["a", "a", "b", "b"]), estimate(gain, gap)
    assert apart.seed_variance[0] < 1e-4 < together.seed_variance[0]
    np.testing.assert_allclose(apart.recovered, together.recovered)


def test_a_setting_with_one_run_gets_no_statement_on_seeds():
    gain, gap = world(np.random.default_rng(9), 3, 1, 48, 0.5)
    found = estimate(gain, gap, ["a", "a", "b"])
    assert not found.has_seeds and np.isnan(interval(found, seeds=True)).all()
    assert np.isfinite(interval(found, seeds=False)).all()


def test_prompts_that_lack_a_place_and_runs_with_other_prompts_count_where_they_are():
    random = np.random.default_rng(10)
    gain, gap = world(random, 2, 1, 24, 0.5, shared=0.2, own=0.0)
    half = gain.copy()
    half[0, :, 12:] = half[1, :, :12] = np.nan
    found = estimate(half, gap)
    assert (found.n[0], found.runs[0]) == (24, 2)
    np.testing.assert_allclose(found.of_run[0, 0], gain[0, 0, :12].mean() / gap[0, 0, :12].mean())
    # Twelve prompts each, independent of each other: as good as twenty-four of one run.
    alone = estimate(gain[:1], gap[:1]).variance()
    assert 0.5 < found.variance()[0] / alone[0] < 2


def test_means_without_prompts_speak_of_other_seeds_alone():
    gain, gap = np.array([[0.9], [1.0], [1.1]]), np.full((3, 1), 2.0)
    found = of_means(gain, gap, np.array([48]))
    low, high = interval(found, seeds=True)
    half = stats.t.ppf(0.975, 2) * np.std([0.45, 0.5, 0.55], ddof=1) / np.sqrt(3)
    np.testing.assert_allclose([low[0], high[0]], [0.5 - half, 0.5 + half])
    assert np.isnan(interval(found, seeds=False)).all()


def test_a_mean_has_its_interval_over_prompts_and_seeds():
    random = np.random.default_rng(11)
    hits = []
    for _ in range(40):
        values = random.standard_normal((1, 50, 24)) + 0.3 * random.standard_normal((3, 50, 24))
        _, low, high = mean_interval(values + 0.2 * random.standard_normal((3, 50, 1)))
        hits.append((low <= 0) & (high >= 0))
    assert 0.93 <= np.mean(hits) <= 0.97
    one = random.standard_normal((1, 1, 24))
    mean, low, high = mean_interval(one)
    expected = stats.t.interval(0.95, 23, one.mean(), stats.sem(one[0, 0]))
    np.testing.assert_allclose([mean[0], low[0], high[0]], [one.mean(), *expected])
