"""Covariances without the noise of prompts, against random halves and planted effects."""

from __future__ import annotations

import numpy as np
import pytest

from mi_sweeps.analysis.agreement.moments import (
    agreement_parts,
    correlation,
    heads_differ,
    moments,
    reliability,
)
from mi_sweeps.analysis.agreement.simulations import gains


def halves(gain: np.ndarray, draws: int = 3000) -> tuple[float, float]:
    """Correlation of the first two runs over that of each with itself, and the reliability of the first: from halves
    that are drawn, by the formulas as they are written in textbooks."""
    random = np.random.default_rng(1)
    covariance = []
    for _ in range(draws):
        order = random.permutation(gain.shape[2])
        one, other = (gain[..., half].mean(axis=2) for half in np.array_split(order, 2))
        covariance.append([np.cov(a, b)[0, 1] for a, b in ((one[0], other[1]), (one[0], other[0]), (one[1], other[1]))])
    between, first, second = np.mean(covariance, axis=0)
    means = gain[0].mean(axis=1)
    return between / np.sqrt(first * second), first / np.cov(means)


def test_they_are_those_of_halves_over_all_splits():
    gain = gains(np.random.default_rng(0), runs=2, heads=8, prompts=24, share=0.5)
    found = moments(gain)
    r, own = halves(gain)
    assert correlation(found)[0, 0, 1] == pytest.approx(r, abs=0.02)
    assert reliability(found)[0, 0] == pytest.approx(own, abs=0.02)


def test_the_reliability_is_cronbachs_alpha():
    gain = gains(np.random.default_rng(0), runs=1, heads=12, prompts=20)
    items = gain[0].T
    total = items.sum(axis=0).var(ddof=1)
    alpha = 20 / 19 * (1 - items.var(axis=1, ddof=1).sum() / total)
    assert reliability(moments(gain))[0, 0] == pytest.approx(alpha)


def test_planted_effects_that_are_the_same_agree_fully_and_independent_ones_not_at_all():
    random = np.random.default_rng(0)
    upper = np.triu_indices(5, 1)
    for share, expected in ((1.0, 1.0), (0.0, 0.0)):
        r = [correlation(moments(gains(random, share=share, heads=64), 1))[0][upper].mean() for _ in range(20)]
        assert np.mean(r) == pytest.approx(expected, abs=0.05)


def test_noise_of_prompts_that_runs_share_is_no_agreement():
    random = np.random.default_rng(0)
    worlds = [gains(random, share=0.0, size=0.2, shared=2.0, own=0.2, heads=64) for _ in range(20)]
    upper = np.triu_indices(5, 1)
    means = [np.corrcoef(world.mean(axis=2))[upper].mean() for world in worlds]
    assert np.mean(means) > 0.5
    covariance = np.mean([moments(world, 1).covariance[0] for world in worlds], axis=0)
    assert abs(covariance[upper].mean()) < 0.2 * np.diag(covariance).mean()


def test_a_run_without_effects_distinguishes_no_heads():
    random = np.random.default_rng(0)
    result = [heads_differ(gains(random, size=0.0), 199) for _ in range(20)]
    assert np.mean(result) < 0.15
    assert heads_differ(gains(random)).all()


def test_the_icc_asks_for_equal_sizes_where_a_correlation_does_not():
    gain = gains(np.random.default_rng(0), runs=2, own=0.1, shared=0.1)
    gain[1] *= 3
    found = moments(gain)
    above, below = (part[0, 0, 1] for part in agreement_parts(found))
    assert correlation(found)[0, 0, 1] == pytest.approx(1, abs=0.01)
    mean = gain.mean(axis=2)
    # Without noise it is the textbook's, by mean squares (McGraw & Wong 1996, ICC(A,1)).
    heads, runs = mean.shape[1], 2
    rows = runs * mean.mean(axis=0).var(ddof=1)
    columns = heads * mean.mean(axis=1).var(ddof=1)
    rest = ((mean - mean.mean(axis=0) - mean.mean(axis=1, keepdims=True) + mean.mean()) ** 2).sum() / (heads - 1)
    assert above / below == pytest.approx((rows - rest) / (rows + rest + 2 / heads * (columns - rest)), abs=0.01)


def test_runs_with_prompts_of_their_own_are_compared():
    gain = gains(np.random.default_rng(0), runs=2, prompts=40)
    gain[0, :, 25:], gain[1, :, :15] = np.nan, np.nan
    found = moments(gain)
    assert correlation(found)[0, 0, 1] == pytest.approx(1, abs=0.1)
    shared = sum(
        np.cov(gain[0, :, i], gain[1, :, j])[0, 1] for i in range(25) for j in range(15, 40) if i != j
    ) / (25 * 25 - 10)  # fmt: skip
    assert found.covariance[0, 0, 1] == pytest.approx(shared)
