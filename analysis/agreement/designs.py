"""Which pairs of runs are compared, and the interval of an average over these pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from ..inference.estimates import criticals

ENOUGH = 5
"""The fewest seeds that allow inference to other seeds."""

Pairs = Bool[np.ndarray, "run run"]
Replicates = Float[np.ndarray, " draw"]
"""A value computed from all prompts, then its replicates with prompts resampled, weighted or left out."""
Statistic = Callable[[Pairs], Replicates]
"""Computes a value from some pairs of runs."""


@dataclass(frozen=True)
class Design:
    """The pairs of runs that are compared, and the units that the jackknife over runs leaves out one by one."""

    pairs: Pairs
    unit: Int[np.ndarray, " run"]
    """The unit of each run. Runs of one unit are left out together."""
    stratum: Int[np.ndarray, " run"]
    """The stratum of each run. Strata are fixed: the variance is that between units of one stratum."""
    scope: str
    """The runs that the interval generalises to."""

    @property
    def units(self) -> int:
        """The number of units in the smallest stratum."""
        return min(len(set(self.unit[self.stratum == one])) for one in set(self.stratum))


def of_seeds(runs: int) -> Design:
    """All pairs of the runs of a setting, which differ in their seed."""
    return Design(np.triu(np.ones((runs, runs), bool), 1), np.arange(runs), np.zeros(runs, int), "other seeds")


def of_levels(levels: Sequence[str], axis: str) -> Design:
    """All pairs of runs with different values on an axis, such as two base models.

    With at least ENOUGH values, or with one run for some value, the interval generalises to other values; otherwise to
    other seeds of these values.

    Args:
        levels: the value of each run.
    """
    name, level = np.unique(np.array(levels), return_inverse=True)
    counts = np.bincount(level)
    pairs = np.triu(level[:, None] != level, 1)
    if len(name) >= ENOUGH or counts.min() == 1:
        return Design(pairs, level, np.zeros(len(level), int), f"other {axis}")
    return Design(pairs, np.arange(len(level)), level, f"other seeds of these {len(name)} {axis}")


def interval(
    statistic: Statistic, design: Design, prompts: int, variance: Callable[[Replicates], float]
) -> tuple[float, float, float]:
    """A value with both ends of its 95% interval, for other prompts and other runs.

    Adds the jackknife variance over runs, with each unit left out once, to the variance over prompts, with
    Satterthwaite's degrees of freedom as in `inference.estimates`. If no unit can be left out, the interval is for
    other prompts only. NaN: not defined.

    Args:
        variance: computes the variance over prompts from the replicates.
    """
    values = statistic(design.pairs)
    over_runs, freedom = _jackknife(statistic, design)
    over_prompts = np.array([variance(values)])
    part = np.array([over_runs])
    critical, at_runs, known = criticals(over_prompts, np.array([prompts]), part, np.array([freedom]))
    half = float(np.sqrt(critical**2 * over_prompts + at_runs**2 * known)[0])
    return float(values[0]), float(values[0]) - half, float(values[0]) + half


def _jackknife(statistic: Statistic, design: Design) -> tuple[float, float]:
    """Jackknife variance of a value over units, and its degrees of freedom; NaN with too few units."""
    total, freedom = 0.0, 0
    for stratum in np.unique(design.stratum):
        own = np.unique(design.unit[design.stratum == stratum])
        left = []
        for unit in own:
            kept = design.unit != unit
            pairs = design.pairs & kept[:, None] & kept
            if not pairs.any():
                return float("nan"), float("nan")
            left.append(float(statistic(pairs)[0]))
        total += (len(own) - 1) / len(own) * float(((np.array(left) - np.mean(left)) ** 2).sum())
        freedom += len(own) - 1
    return total, float(freedom)


def bootstrap_variance(values: Replicates) -> float:
    """Bootstrap variance, from replicates with random prompt weights."""
    return float(np.nanvar(values[1:], ddof=1)) if np.isfinite(values[1:]).sum() > 1 else float("nan")


def jackknife_variance(values: Replicates) -> float:
    """Jackknife variance, from replicates that each leave out a group of prompts."""
    left = values[1:][np.isfinite(values[1:])]
    return float((len(left) - 1) / len(left) * ((left - left.mean()) ** 2).sum()) if len(left) > 1 else float("nan")


def mean(values: Float[np.ndarray, "draw run run"]) -> Statistic:
    """Averages over pairs."""
    return lambda pairs: np.asarray(values[:, pairs].mean(axis=1))


def mean_of_runs(values: Float[np.ndarray, "draw run"]) -> Statistic:
    """Averages over the runs that occur in a pair."""
    return lambda pairs: np.asarray(values[:, pairs.any(axis=0) | pairs.any(axis=1)].mean(axis=1))


def ratio(above: Float[np.ndarray, "draw run run"], below: Float[np.ndarray, "draw run run"]) -> Statistic:
    """Divides the sum of the pairs' numerators by that of their denominators."""
    return lambda pairs: np.asarray(above[:, pairs].sum(axis=1) / below[:, pairs].sum(axis=1))
