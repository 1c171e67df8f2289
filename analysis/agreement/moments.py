"""Covariances between the effects of two runs' heads, free of the noise of prompts.

Let g_a(h, i) be the gain of head h on prompt i in run a. All runs that were patched on a prompt share its noise, so
means over the same prompts agree even if the heads do not. Between two *disjoint* halves A and B of the prompts,
cov_h(mean_A g_a, mean_B g_b) is free of that noise. The correlation between two runs divided by that of each run with
itself, r_ab / sqrt(r_aa r_bb), all between disjoint halves, is Spearman's (1904, Am. J. Psychol. 15) correction for
attenuation; the standard deviations cancel and only these covariances remain. Their mean over all splits into halves is
the mean over all pairs of different prompts,

    C_ab = sum over i ≠ j of cov_h(g_a(·, i), g_b(·, j)) / number of such pairs,

so no splits are drawn. For a = b, C_aa / var_h(mean g_a) is the split-half reliability for all prompts, by the
Spearman-Brown formula and averaged over all splits: Cronbach's alpha (1951, Psychometrika 16).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from ..inference.estimates import LEVEL

DRAWS = 500
SEED = 0


@dataclass(frozen=True)
class Moments:
    """Moments that the effects of heads in different runs share, in logits squared. The first row of `draw` has the
    prompts as they are, each other row random weights."""

    covariance: Float[np.ndarray, "draw run run"]
    """Covariance over heads: C of the module's docstring."""
    variance: Float[np.ndarray, "draw run"]
    """Variance over heads of each run's prompt means, noise included."""
    mean: Float[np.ndarray, "draw run run"]
    """Product of the two runs' means over heads, from pairs of different prompts only."""
    heads: int


def moments(gain: Float[np.ndarray, "run head prompt"], draws: int = DRAWS) -> Moments:
    """The moments of some runs, NaN where a run lacks a prompt.

    The draws are those of the Bayesian bootstrap (Rubin 1981, Ann. Statist. 9), in which a prompt is never paired with
    itself; an ordinary bootstrap would mistake the noise of a prompt that is drawn twice for reliability.
    """
    there = ~np.isnan(gain).any(axis=1)
    values = np.where(there[:, None], gain, 0.0)
    runs, heads, prompts = gain.shape
    weights = np.concatenate([np.ones((1, prompts)), dirichlet(draws, prompts)])
    total = weights @ there.T.astype(float)
    squared = weights**2
    apart = _outer(total) - (squared @ _outer(there.T.astype(float)).reshape(prompts, -1)).reshape(-1, runs, runs)
    level = values.mean(axis=1)
    centred = values - level[:, None]
    sums = np.tensordot(weights, centred, (1, 2))
    own = np.einsum("ahi,bhi->iab", centred, centred).reshape(prompts, -1)
    levels = weights @ level.T
    with np.errstate(divide="ignore", invalid="ignore"):
        covariance = (sums @ sums.swapaxes(1, 2) - (squared @ own).reshape(apart.shape)) / (heads - 1) / apart
        mean = (_outer(levels) - (squared @ _outer(level.T).reshape(prompts, -1)).reshape(apart.shape)) / apart
        variance = (sums**2).sum(axis=2) / (heads - 1) / total**2
    return Moments(covariance, variance, mean, heads)


def correlation(found: Moments) -> Float[np.ndarray, "draw run run"]:
    """Correlation of each pair of runs' effects, corrected for prompt noise. An estimate, so it may exceed 1."""
    own = _own(found.covariance)
    own = np.where(own > 0, own, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        return found.covariance / np.sqrt(own[:, :, None] * own[:, None])


def reliability(found: Moments) -> Float[np.ndarray, "draw run"]:
    """Reliability of each run's prompt means: the share of their variance over heads that is not noise."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return _own(found.covariance) / found.variance


def agreement_parts(found: Moments) -> tuple[Float[np.ndarray, "draw run run"], Float[np.ndarray, "draw run run"]]:
    """Numerator and denominator of the intraclass correlation for absolute agreement of two runs, without the noise of
    prompts: ICC(A,1) of McGraw & Wong (1996, Psychol. Methods 1), with heads as targets and runs as raters,

        var(head) / (var(head) + var(run) + var(head × run)).

    Unlike a correlation, it requires effects of equal size.
    """
    own, mean = _own(found.covariance), _own(found.mean)
    between = (own[:, :, None] + own[:, None]) / 2
    run = (mean[:, :, None] + mean[:, None]) / 2 - found.mean - (between - found.covariance) / found.heads
    return found.covariance, between + run


def heads_differ(gain: Float[np.ndarray, "run head prompt"], draws: int = 999) -> Bool[np.ndarray, " run"]:
    """Whether a run's heads differ at all in their effects, by a test at 5%.

    If they do not, there is nothing to correlate once noise is removed. The statistic is the variance of the means over
    heads; under the null, the deviations of each prompt's effects from their mean over heads are equally likely to have
    the opposite sign.
    """
    there = ~np.isnan(gain).any(axis=1)
    values = np.where(there[:, None], gain, 0.0)
    centred = values - values.mean(axis=1, keepdims=True)
    signs = np.random.default_rng(SEED).choice(np.array([-1.0, 1.0]), (draws, gain.shape[2]))
    found = (centred.sum(axis=2) ** 2).sum(axis=1)
    null = (np.tensordot(signs, centred, (1, 2)) ** 2).sum(axis=2)
    as_large = (null >= found * (1 - 1e-12)).sum(axis=0)
    return (found > 0) & ((as_large + 1) / (draws + 1) < 1 - LEVEL)


def dirichlet(draws: int, prompts: int) -> Float[np.ndarray, "draw prompt"]:
    """Weights of prompts with mean 1, drawn uniformly from the simplex; the same on each call."""
    weights = np.random.default_rng(SEED).standard_exponential((draws, prompts))
    return weights / weights.mean(axis=1, keepdims=True)


def _own(values: Float[np.ndarray, "draw run run"]) -> Float[np.ndarray, "draw run"]:
    return np.diagonal(values, axis1=1, axis2=2)


def _outer(values: Float[np.ndarray, "draw run"]) -> Float[np.ndarray, "draw run run"]:
    return values[:, :, None] * values[:, None]
