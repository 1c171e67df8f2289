"""Covariances between the effects of two runs' heads, free of the noise of prompts.

Of run a, head h and prompt i there is a gain g_a(h, i). The noise of a prompt is shared by the runs that were patched
on it, so means over the same prompts agree even where the heads do not. Over two *disjoint* halves A and B of the
prompts, cov_h(mean_A g_a, mean_B g_b) has no such part. Correlation between runs over that of a run with itself,
r_ab / sqrt(r_aa r_bb), each between disjoint halves, is Spearman's (1904, Am. J. Psychol. 15) correction for
attenuation; the standard deviations in it cancel, and what is left are these covariances. Their mean over all splits
into halves is that over all pairs of different prompts,

    C_ab = sum over i ≠ j of cov_h(g_a(·, i), g_b(·, j)) / number of such pairs,

so none is drawn. For a = b, C_aa / var_h(mean g_a) is the split-half reliability of all prompts together, stepped up by
Spearman and Brown and averaged over all splits: Cronbach's alpha (1951, Psychometrika 16).
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
    """What the heads' effects of runs have in common, in logits squared. The first row of `draw` is of the prompts as
    they are, the others of prompts that were weighted anew."""

    covariance: Float[np.ndarray, "draw run run"]
    """Covariance over heads: C of the module's docstring."""
    variance: Float[np.ndarray, "draw run"]
    """Variance over heads of each run's prompt means, noise included."""
    mean: Float[np.ndarray, "draw run run"]
    """Product of both runs' means over heads, from pairs of different prompts only."""
    heads: int


def moments(gain: Float[np.ndarray, "run head prompt"], draws: int = DRAWS) -> Moments:
    """The moments of some runs, NaN where a run lacks a prompt.

    The draws are of the Bayesian bootstrap (Rubin 1981, Ann. Statist. 9). A prompt is never paired with itself,
    whatever its weight; an ordinary bootstrap would take the noise of a prompt that was drawn twice for reliability.
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

    Unlike a correlation it asks for equal sizes of the effects.
    """
    own, mean = _own(found.covariance), _own(found.mean)
    between = (own[:, :, None] + own[:, None]) / 2
    run = (mean[:, :, None] + mean[:, None]) / 2 - found.mean - (between - found.covariance) / found.heads
    return found.covariance, between + run


def tells_heads_apart(gain: Float[np.ndarray, "run head prompt"], draws: int = 999) -> Bool[np.ndarray, " run"]:
    """Whether a run's heads differ at all in their effects, by a test at 5%.

    Without noise nothing would be left to correlate where they do not. The statistic is the variance over heads of the
    means; under the null each prompt's effects, less their mean over heads, might as well have the other sign.
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
    """Weights of prompts with mean 1, each draw equally likely anywhere on the simplex; the same ones on each call."""
    weights = np.random.default_rng(SEED).standard_exponential((draws, prompts))
    return weights / weights.mean(axis=1, keepdims=True)


def _own(values: Float[np.ndarray, "draw run run"]) -> Float[np.ndarray, "draw run"]:
    return np.diagonal(values, axis1=1, axis2=2)


def _outer(values: Float[np.ndarray, "draw run"]) -> Float[np.ndarray, "draw run run"]:
    return values[:, :, None] * values[:, None]
