"""Measures of agreement, with intervals and answers."""

from __future__ import annotations

import numpy as np
import pytest

from mi_sweeps.analysis.agreement.designs import of_levels, of_seeds
from mi_sweeps.analysis.agreement.halves import halves
from mi_sweeps.analysis.agreement.measures import Answer, agreements
from mi_sweeps.analysis.agreement.simulations import coverage, gains


def measured(gain, design=None):
    rows = agreements(gain, of_seeds(len(gain)) if design is None else design)
    return {(row.measure, row.k): row for row in rows}


def test_same_effects_agree_and_independent_ones_do_not():
    found = measured(gains(np.random.default_rng(0)))
    assert {found[name, k].answer for name, k in (("correlation", None), ("icc", None), ("rank", None))} == {
        Answer.AGREE
    }
    assert found["correlation", None].value == pytest.approx(1, abs=0.05)
    assert found["jaccard", 5].p < 0.01 and found["jaccard", 5].value > found["jaccard", 5].expected
    found = measured(gains(np.random.default_rng(3), share=0.0))
    assert found["correlation", None].answer is Answer.DISAGREE and found["icc", None].answer is Answer.DISAGREE
    assert found["jaccard", 5].p > 0.05


def test_of_four_seeds_nothing_is_concluded():
    found = measured(gains(np.random.default_rng(0), runs=4))
    assert found["correlation", None].value == pytest.approx(1, abs=0.05)
    assert {row.answer for row in found.values()} <= {Answer.CANNOT_TELL, Answer.UNDEFINED, None}


def test_without_effects_agreement_is_undefined():
    found = measured(gains(np.random.default_rng(0), size=0.0))
    assert found["correlation", None].answer is Answer.UNDEFINED and np.isnan(found["correlation", None].value)
    assert found["rank", None].answer is Answer.UNDEFINED and found["reliability", None].answer is None


def test_runs_that_are_one_model_are_identical_and_do_not_agree():
    gain = np.repeat(gains(np.random.default_rng(0), runs=1), 5, axis=0)
    assert {row.answer for row in measured(gain).values()} == {Answer.IDENTICAL, None}
    # Of runs that share no prompt that cannot be known.
    apart = np.full((10, 16, 96), np.nan)
    apart[:5, :, :48], apart[5:, :, 48:] = gain, gains(np.random.default_rng(1), runs=1)
    design = of_levels(["a"] * 5 + ["b"] * 5, "base models")
    assert Answer.IDENTICAL not in {row.answer for row in measured(apart, design).values()}


def test_ranks_have_the_ceiling_of_their_own_halves():
    """Noise lowers the ranks' correlation between runs and within one alike."""
    found = measured(gains(np.random.default_rng(0), size=0.5))["rank", None]
    assert found.value < 0.9 and found.value == pytest.approx(found.ceiling, abs=0.1)
    assert found.of_ceiling == pytest.approx(1, abs=0.1)


def test_levels_are_compared_with_other_levels_alone():
    random = np.random.default_rng(0)
    one, other = (gains(random, heads=32) for _ in range(2))
    design = of_levels(["a"] * 5 + ["b"] * 5, "base models")
    found = measured(np.concatenate([one, other]), design)["correlation", None]
    assert design.scope == "other seeds of these 2 base models"
    assert abs(found.value) < 0.5 and found.answer is Answer.DISAGREE
    assert of_levels(list("aabbccddee"), "base models").scope == "other base models"
    assert of_levels(["a", "b"], "base models").units == 2


def test_halves_are_disjoint():
    """Two prompts tell opposite things: what is large on one is small on the other."""
    gain = np.zeros((2, 6, 2))
    gain[:, :, 0], gain[:, :, 1] = np.arange(6), -np.arange(6)
    found = halves(gain, (1,), splits=4)
    assert found.rank[0] == pytest.approx(-1)


def test_intervals_hold_the_truth():
    for share in (0.5, 0.9):
        assert coverage(share, 30)[0].min() >= 0.85


def test_heads_without_any_effect_agree_on_nothing():
    """Two of sixteen act. The order of the others, whose effects are exactly 0, is chance."""
    gain = np.zeros((5, 16, 48))
    gain[:, [3, 9]] = np.array([2.0, 1.0])[:, None] + 0.2 * np.random.default_rng(0).standard_normal((5, 2, 48))
    found = {(one.measure, one.k): one for one in agreements(gain, of_seeds(5))}
    assert found["jaccard", 1].value == 1
    five, rank = found["jaccard", 5], found["rank", None]
    assert five.value < 0.5 and five.answer is Answer.CANNOT_TELL  # without noise in the ties: 1, agree
    assert rank.value < 0.5 and rank.answer is Answer.CANNOT_TELL
    assert str(agreements(gain, of_seeds(5))) == str(list(found.values()))
