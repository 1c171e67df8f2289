"""How certain it is that a head is a member: how often other prompts would have made it one, without further forward
passes.

A member is a head that recovers or removes more than DELTA of the gap. Membership is an estimate, like the effect; this
module computes how often each head would be a member.

- *Inclusion*: the share of draws of the Bayesian bootstrap (Rubin 1981, Ann. Statist. 9), with exponential weights of
  prompts, in which the head is a member.
- *Stability selection* (Meinshausen & Bühlmann 2010, J. R. Stat. Soc. B 72) in complementary pairs (Shah & Samworth
  2013, J. R. Stat. Soc. B 75): the share of random halves of the prompts, two disjoint ones at a time, on which the
  head is a member; *stable* are those above CUTOFF. If a half has q members out of d heads on average, a *false member*
  is a head that a half selects with a probability of at most q/d, in every run if there are several; it need not have
  exactly zero effect. The expected number of stable false members is at most q² / ((2 CUTOFF - 1) d), whatever the
  data. If the number of pairs whose halves both select such a head has a unimodal distribution, it is at most C q² / d
  with C = 4 (1 - CUTOFF + 1/(2 PAIRS)) / (1 + 1/PAIRS). Prompts must be exchangeable.
- Φ of Nogueira, Sechidis & Brown over these halves, and over the runs on all prompts (`members.nogueira`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from ..inference.estimates import estimate
from ..inference.verdicts import DELTA
from .members import jaccard, nogueira
from .moments import dirichlet

DRAWS = 1000
PAIRS = 50
CUTOFF = 0.9
SEED = 0

Effects = Float[np.ndarray, "run item prompt"]


@dataclass(frozen=True)
class Stability:
    """The stability of a circuit's members, heads or edges, by their single effects in some runs."""

    recovered: Float[np.ndarray, " item"]
    """What each item recovers, mean over runs; NaN, like the fields below, unless every run's gap differs from zero."""
    inclusion: Float[np.ndarray, " item"]
    """Share of draws and runs in which an item is a member."""
    selected: Float[np.ndarray, " item"]
    """Share of half-samples of the prompts, over runs."""
    members: float
    """Number of members on a half-sample, mean over runs."""
    false_members: float
    """Bound on the expected number of false stable members, for any data."""
    false_members_unimodal: float
    over_prompts: tuple[float, float, float]
    """Φ over half-samples of the prompts with its interval, each a mean over runs; NaN where a run has none."""
    jaccard_over_prompts: float
    over_runs: tuple[float, float, float]
    """Φ over the runs' members on all prompts, with its interval."""
    jaccard_over_runs: float

    @property
    def stable(self) -> Bool[np.ndarray, " item"]:
        """Items selected on more than CUTOFF of the half-samples."""
        return self.selected > CUTOFF


def stability(gain: Effects, gap: Effects) -> Stability:
    """The stability of members, from their effects on each prompt.

    Args:
        gain: patched - corrupted (logits), or another effect of each item; NaN where a run lacks a prompt.
        gap: clean - corrupted (logits), or what the effect is a share of.
    """
    found = estimate(gain, gap)
    runs, items, prompts = gain.shape
    if prompts < 4 or not found.has_gap.all():
        nothing, none = np.full(items, np.nan), (float("nan"),) * 3
        return Stability(nothing, nothing, nothing, *none, none, none[0], none, none[0])
    drawn = members(gain, gap, dirichlet(DRAWS, prompts))
    halved = members(gain, gap, _halves(prompts))
    whole = members(gain, gap, np.ones((1, prompts)))[0]
    size = halved.sum(axis=2).mean(axis=0)
    bound = float((size**2).mean() / items)
    over_prompts = np.array([nogueira(halved[:, run]) for run in range(runs)])
    apart = [jaccard(halved[:, run]) for run in range(runs)]
    return Stability(
        recovered=found.recovered,
        inclusion=drawn.mean(axis=(0, 1)),
        selected=halved.mean(axis=(0, 1)),
        members=float(size.mean()),
        false_members=bound / (2 * CUTOFF - 1),
        false_members_unimodal=bound * 4 * (1 - CUTOFF + 1 / (2 * PAIRS)) / (1 + 1 / PAIRS),
        over_prompts=_three(over_prompts.mean(axis=0)),
        jaccard_over_prompts=float(np.mean(apart)),
        over_runs=nogueira(whole),
        jaccard_over_runs=jaccard(whole),
    )


def members(
    gain: Effects, gap: Effects, weights: Float[np.ndarray, "draw prompt"]
) -> Bool[np.ndarray, "draw run item"]:
    """Membership of each item under each draw's prompt weights."""
    there = ~np.isnan(gain) & ~np.isnan(gap)
    above = np.tensordot(weights, np.where(there, gain, 0.0), (1, 2))
    below = np.tensordot(weights, np.where(there, gap, 0.0), (1, 2))
    return np.asarray(np.abs(above) > DELTA * np.abs(below))


def _halves(prompts: int) -> Float[np.ndarray, "half prompt"]:
    """PAIRS pairs of disjoint halves, one pair after the other; if the number of prompts is odd, one is in neither
    half."""
    random = np.random.default_rng(SEED)
    weights = np.zeros((PAIRS, 2, prompts))
    for pair in weights:
        order = random.permutation(prompts)
        pair[0, order[: prompts // 2]] = pair[1, order[prompts // 2 : 2 * (prompts // 2)]] = 1.0
    return weights.reshape(-1, prompts)


def _three(values: np.ndarray) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third
