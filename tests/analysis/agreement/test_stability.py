"""Members by single effects: how often they would be found on other prompts."""

from __future__ import annotations

import numpy as np
import pytest

from mi_sweeps.analysis.agreement.simulations import members as simulated
from mi_sweeps.analysis.agreement.stability import members, stability


def world(effects, *, runs=1, prompts=48, noise=0.4, gap=4.0, seed=0):
    random = np.random.default_rng(seed)
    room = gap + 0.5 * random.standard_normal((1, 1, prompts))
    gain = np.asarray(effects)[None, :, None] * room + noise * random.standard_normal((runs, len(effects), prompts))
    return gain, np.broadcast_to(room, gain.shape)


def test_planted_members_are_always_found_and_a_head_at_the_limit_half_of_the_time():
    found = stability(*world([0.5, -0.3, 0.05, 0.0, 0.0]))
    assert found.inclusion[:2] == pytest.approx([1, 1]) and found.selected[:2] == pytest.approx([1, 1])
    assert 0.05 < found.inclusion[2] < 0.95 and (found.inclusion[3:] < 0.05).all()
    assert list(found.stable) == [True, True, False, False, False]


def test_members_are_those_of_the_weighted_prompts():
    """Against plain sums, prompt by prompt."""
    gain, gap = world([0.06, 0.04, 0.0], prompts=6)
    weights = np.random.default_rng(1).random((4, 6))
    found = members(gain, gap, weights)
    for draw, weight in enumerate(weights):
        for head in range(3):
            share = sum(w * g for w, g in zip(weight, gain[0, head], strict=True)) / (weight * gap[0, head]).sum()
            assert found[draw, 0, head] == (abs(share) > 0.05)


def test_runs_with_the_same_members_are_stable_and_those_with_others_are_not():
    same = stability(*world([0.5, 0.3] + [0.0] * 14, runs=6))
    assert same.over_runs[0] == same.jaccard_over_runs == 1
    gain, gap = world([0.0] * 16, runs=6)
    for run in range(6):
        gain[run, 2 * run : 2 * run + 2] += 2.0
    other = stability(gain, gap)
    assert other.over_runs[0] < 0 and other.jaccard_over_runs == 0
    assert other.inclusion[:12] == pytest.approx([1 / 6] * 12, abs=0.05)


def test_without_a_gap_nothing_is_a_member():
    found = stability(*world([0.5, 0.3, 0.0], gap=0.0))
    assert np.isnan(found.inclusion).all() and not found.stable.any() and np.isnan(found.false_members)


def test_false_members_stay_below_their_bound():
    for line in simulated(8):
        false, bounds = line.split("halves ")[1:3][0], line.split("bounds ")[1]
        assert float(false.split(",")[0]) <= min(float(one.split()[0]) for one in bounds.split("and "))
