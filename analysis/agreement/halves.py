"""Rank correlation and top-k overlap of two runs on disjoint halves of the prompts; neither has a closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

SPLITS = 24
GROUPS = 8
"""Number of groups of prompts, each left out once for the interval: a delete-a-group jackknife (Kott 2001, J. Off.
Stat. 17)."""
SEED = 0

Between = Float[np.ndarray, "group run run"]
"""Values for each pair of runs, averaged over splits; the diagonal compares the halves of one run. The first uses all
prompts, each of the others leaves out a group of prompts."""


@dataclass(frozen=True)
class Halves:
    """Similarity of runs on disjoint halves of the prompts."""

    rank: Between
    """Spearman correlation of the effects. Ties are broken as if each prompt's effect had a little noise of its own."""
    jaccard: dict[int, Between]
    """Jaccard index of the k largest heads, by k; ties as for `rank`."""


def halves(gain: Float[np.ndarray, "run head prompt"], sizes: Sequence[int], splits: int = SPLITS) -> Halves:
    """Compare all pairs of runs.

    Args:
        sizes: the k of `Halves.jaccard`.
    """
    prompts = gain.shape[2]
    random = np.random.default_rng(SEED)
    order = np.stack([random.permutation(prompts) for _ in range(splits)])
    group = random.permutation(prompts) % min(GROUPS, prompts)
    kept = np.stack([np.ones(prompts, bool), *(group != one for one in range(min(GROUPS, prompts)))])
    mean = _means(gain, kept, order)
    # Broken by position, ties would be broken alike in all runs, and pass for agreement.
    ties = _means(np.where(np.isnan(gain), np.nan, random.standard_normal(gain.shape)), kept, order)
    ranks = np.where(np.isnan(mean).any(axis=-1, keepdims=True), np.nan, _places(mean, ties))
    ranks -= ranks.mean(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        ranks /= np.sqrt((ranks**2).sum(axis=-1, keepdims=True))
    place = _places(-np.abs(mean), ties)
    jaccard = {}
    for k in sizes:
        shared = _together((place < k).astype(float))
        jaccard[k] = _mean(shared / (2 * k - shared))
    return Halves(_mean(_together(ranks)), jaccard)


def _places(values: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """Number the heads from the smallest value; among equal ones, from the smallest of `ties`."""
    return np.argsort(np.lexsort((ties, values), axis=-1), axis=-1)


def _means(gain: np.ndarray, kept: np.ndarray, order: np.ndarray) -> Float[np.ndarray, "group split half run head"]:
    """Averages each run's effects over each half of the kept prompts."""
    there = ~np.isnan(gain).any(axis=1)
    values = np.where(there[:, None], gain, 0.0)
    turn = np.argsort(order, axis=1) % 2  # which half a prompt is in
    half = kept[:, None, None] * (turn[:, None] == np.arange(2)[:, None])
    weights = half.reshape(-1, gain.shape[2]).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.tensordot(weights, values, (1, 2)) / (weights @ there.T)[..., None]
    return mean.reshape(*half.shape[:3], *gain.shape[:2])


def _together(values: Float[np.ndarray, "group split half run head"]) -> Float[np.ndarray, "group split run run"]:
    """Products for each pair of runs, the first on one half and the second on the other."""
    return values[:, :, 0] @ values[:, :, 1].swapaxes(2, 3)


def _mean(values: Float[np.ndarray, "group split run run"]) -> Between:
    mean = values.mean(axis=1)
    return (mean + mean.swapaxes(1, 2)) / 2
