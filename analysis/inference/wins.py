"""Intervals and tests of win rates, for runs on the same prompts and for the same prompts at two checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from .estimates import LEVEL


def interval(rates: Sequence[float], n: int, level: float = LEVEL) -> tuple[float, float]:
    """The interval of the mean win rate of runs on the same `n` prompts, for other prompts and other runs.

    Over prompts it is Wilson's (1927) interval of the mean rate, which is as wide as if all runs won the same prompts;
    over runs it is Student's t. Their distances from the mean are added in quadrature (MOVER, Zou & Donner 2008, Stat.
    Med. 27). For a single run it is Wilson's, for other prompts in that run. Runs that agree by chance still get an
    interval of nonzero width.

    >>> tuple(round(end, 3) for end in interval([0.9, 0.9, 0.9], 240))
    (0.856, 0.932)
    """
    mean = float(np.mean(rates))
    over_prompts = proportion_confint(mean * n, n, 1 - level, method="wilson")
    spread = stats.sem(rates) * stats.t.ppf(0.5 + level / 2, len(rates) - 1) if len(rates) > 1 else 0.0
    low, high = (float(np.hypot(mean - end, spread)) for end in over_prompts)
    return max(0.0, mean - low), min(1.0, mean + high)


@dataclass(frozen=True)
class Change:
    """How a win rate changed."""

    before: float
    after: float
    difference: float
    p: float
    """McNemar's exact test of no change: each prompt that is won at only one of the two checkpoints is equally likely
    to be won at either (McNemar 1947, Psychometrika 12)."""
    gained: int
    """Prompts that are won only at the second checkpoint."""
    lost: int
    n: int

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """The interval of the difference: all values that a score test does not reject (Tango 1998, Stat. Med. 17,
        891-908). Unlike others it has a width even if no prompt changed: if none of 240 did, up to four in 240 may.
        """
        critical = float(stats.norm.ppf(0.5 + level / 2))
        return self._end(-1.0, critical), self._end(1.0, critical)

    def _end(self, side: float, critical: float) -> float:
        """The value at which the score is just not rejected; -1 or 1 if there is none."""

        def beyond(assumed: float) -> float:
            return -side * self._score(assumed) - critical

        furthest = side * (1 - 1e-9)
        return float(optimize.brentq(beyond, furthest, self.difference)) if beyond(furthest) > 0 else side

    def _score(self, difference: float) -> float:
        """How far the observed difference is above an assumed one, in standard errors."""
        n, more, less = self.n, self.gained, self.lost
        a, c = 2.0 * n, -less * difference * (1 - difference)
        b = -more - less + (2 * n - more + less) * difference
        only_before = (np.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        variance = n * (2 * only_before + difference * (1 - difference))
        off = more - less - n * difference
        return float(off / np.sqrt(variance)) if variance > 1e-12 else float(np.sign(off) * np.inf if off else 0.0)


def change(before: Bool[np.ndarray, " prompt"], after: Bool[np.ndarray, " prompt"]) -> Change:
    """The change between two checkpoints, from which prompts are won at each."""
    gained, lost, n = int((after & ~before).sum()), int((before & ~after).sum()), len(before)
    both, neither = int((before & after).sum()), int((~before & ~after).sum())
    p = float(mcnemar([[both, lost], [gained, neither]], exact=True).pvalue)
    return Change(before.mean(), after.mean(), (gained - lost) / n, min(p, 1.0), gained, lost, n)
