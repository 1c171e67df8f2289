"""Win rates of the same prompts at two checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mi_sweeps.analysis.inference.wins import change, interval


def of_counts(both: int, gained: int, lost: int, neither: int):
    before, after = np.repeat(
        [[True, False, True, False], [True, True, False, False]], [both, gained, lost, neither], 1
    )
    return change(before, after)


def test_prompts_that_changed_are_counted_and_nothing_else_is_tested():
    found = of_counts(100, 3, 12, 20)
    assert (found.gained, found.lost, found.n) == (3, 12, 135)
    assert found.difference == pytest.approx(found.after - found.before) == pytest.approx(-9 / 135)
    assert found.p == pytest.approx(stats.binomtest(3, 15).pvalue)
    assert of_counts(1, 3, 12, 0).p == found.p


@pytest.mark.parametrize("n", [20, 240])
def test_where_nothing_changed_the_interval_still_has_a_width(n):
    """z² / (n + z²), as Tango has it."""
    found = of_counts(n, 0, 0, 0)
    z = stats.norm.ppf(0.975)
    assert found.interval() == pytest.approx((-z * z / (n + z * z), z * z / (n + z * z)), abs=1e-6)
    assert found.p == 1


@pytest.mark.parametrize("counts", [(43, 0, 1, 0), (20, 9, 2, 5), (0, 7, 0, 3), (0, 10, 0, 0), (0, 0, 10, 0)])
def test_what_is_beyond_the_interval_is_rejected_and_what_is_within_is_not(counts):
    """Each end against a search over assumed differences, with the likelihood maximised on a grid."""
    found = of_counts(*counts)
    low, high = found.interval()
    assumed = np.linspace(-0.999, 0.999, 400)
    kept = [at for at in assumed if abs(score(found, at)) <= 1.96]
    assert (low, high) == pytest.approx((min(kept), max(kept)), abs=0.01)


def score(found, difference: float) -> float:
    n, more, less = found.n, found.gained, found.lost
    q = np.linspace(max(0, -difference), (1 - difference) / 2, 4001)[1:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [(more, q + difference), (less, q), (n - more - less, 1 - 2 * q - difference)]
        likelihood = sum(count * np.log(p) for count, p in terms if count)
    best = q[np.nanargmax(likelihood + np.zeros_like(q))]
    return (more - less - n * difference) / np.sqrt(n * (2 * best + difference * (1 - difference)))


def test_intervals_hold_the_truth_as_often_as_they_say():
    random = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        before = random.random(240) < 0.8
        after = np.where(random.random(240) < 0.1, random.random(240) < 0.6, before)
        low, high = change(before, after).interval()
        held += low <= 0.1 * (0.6 - 0.8) <= high
    assert 0.9 <= held / 200 <= 0.99


@pytest.mark.parametrize("runs", [1, 2, 3, 8])
def test_the_interval_of_a_rate_holds_for_other_prompts_and_other_runs(runs):
    """Prompts differ in how hard they are, alike in all runs, and runs in how good they are."""
    rng = np.random.default_rng(runs)
    held, draws = 0, 400
    for _ in range(draws):
        skill, hardness = rng.normal(1.2, 0.2, runs), rng.normal(0, 1.0, 120)
        won = rng.random((runs, 120)) < stats.norm.cdf(skill[:, None] - hardness)
        low, high = interval(won.mean(axis=1).tolist(), 120)
        # One run says nothing of others: its own rate on other prompts is what its interval is for.
        truth = stats.norm.cdf((skill[0] if runs == 1 else 1.2) / np.sqrt(2.0 if runs == 1 else 2.04))
        held += low <= truth <= high
    assert held / draws >= 0.93


def test_runs_of_equal_rates_say_no_more_of_other_prompts_than_one_of_them():
    assert interval([0.5, 0.5], 48) == interval([0.5], 48)
    assert interval([1.0, 1.0], 48)[0] < 0.94
