"""Means over prompts and runs, and correlations over prompts, with pointwise and simultaneous intervals.

Does for plain values what `estimates` and `verdicts` do for ratios: each prompt's influence on a result is averaged
over runs, because they share their prompts; simultaneous critical values are those of verdicts; the variance of seeds
is added in quadrature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from .differences import Comparison
from .estimates import Places, between_runs, criticals
from .verdicts import DELTA, critical_values, few, seed_part

Values = Float[np.ndarray, "run place prompt"]


@dataclass(frozen=True)
class Interval:
    """A value per place with two 95% intervals; NaN where missing."""

    value: Places
    low: Places
    """Interval at this place alone."""
    high: Places
    lowest: Places
    """Simultaneous interval; NaN if fewer than half of the prompts have the place."""
    highest: Places
    seeds: bool
    """Whether they hold for other seeds too, or only for other prompts in these runs."""
    n: Int[np.ndarray, " place"]
    """Prompts."""
    runs: Int[np.ndarray, " place"]


def mean(values: Values, checkpoint: Int[np.ndarray, " place"], settings: Sequence[object] | None = None) -> Interval:
    """The mean over runs and prompts.

    Args:
        values: NaN where a run or prompt has no such place.
        checkpoint: the checkpoint of each place, as any number.
        settings: as for `estimates.estimate`.
    """
    there = ~np.isnan(values)
    count = there.sum(axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        of_run = np.where(there, values, 0.0).sum(axis=2) / count
        centred = np.where(there, values - of_run[..., None], 0.0) / count[..., None]
    return _interval(of_run, centred, there, checkpoint, settings)


def correlation(
    one: Values, other: Values, checkpoint: Int[np.ndarray, " place"], settings: Sequence[object] | None = None
) -> Interval:
    """Pearson's correlation over prompts, in each run alone and then averaged by Fisher's z.

    Intervals are computed for z. A prompt's influence is the change when it is left out (the jackknife; Efron & Stein
    1981, Ann. Statist. 9), which assumes no distribution. NaN if either variable is constant.

    Args: as for `mean`.
    """
    there = ~np.isnan(one) & ~np.isnan(other)
    x, y = (_standardised(np.where(there, values, np.nan)) for values in (one, other))
    there = ~np.isnan(x) & ~np.isnan(y)
    count = there.sum(axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.where(there, x * y, 0.0).sum(axis=2) / count
        less = count[..., None] - 1.0
        without = (r[..., None] - x * y / less) / np.sqrt((1 - x**2 / less) * (1 - y**2 / less))
        z, left = np.arctanh(r), np.where(there, np.arctanh(without), 0.0)
        z = np.where(np.isfinite(z) & np.isfinite(left).all(axis=2), z, np.nan)
        middle = left.sum(axis=2, keepdims=True) / count[..., None]
        influence = (middle - left) * less / count[..., None]
    found = _interval(z, np.where(there & ~np.isnan(z)[..., None], influence, 0.0), there, checkpoint, settings)
    ends = {name: np.tanh(getattr(found, name)) for name in ("value", "low", "high", "lowest", "highest")}
    return replace(found, **ends)


def compare(difference: Interval) -> np.ndarray:
    """Simultaneous comparisons of differences, named as in `Comparison`."""
    low, high = difference.lowest, difference.highest
    words = [Comparison.UNDEFINED, Comparison.ALIKE, Comparison.MORE, Comparison.LESS]
    with np.errstate(invalid="ignore"):
        conditions = [np.isnan(difference.value), (low > -DELTA) & (high < DELTA), low > 0, high < 0]
    return np.select(conditions, [word.value for word in words], Comparison.UNDECIDED.value)


def _standardised(values: Values) -> Values:
    """Scale to mean 0 and variance 1 over prompts; NaN if values vary by rounding only."""
    count = np.maximum((~np.isnan(values)).sum(axis=2, keepdims=True), 1)
    centred = values - np.nansum(values, axis=2, keepdims=True) / count
    spread = np.sqrt(np.nansum(centred**2, axis=2, keepdims=True) / count)
    size = np.abs(np.nan_to_num(values)).max(axis=2, keepdims=True, initial=0.0)
    return np.where(spread > 1e-5 * size, centred / np.where(spread > 0, spread, 1.0), np.nan)


def _interval(
    of_run: Float[np.ndarray, "run place"],
    influence: Values,
    there: Bool[np.ndarray, "run place prompt"],
    checkpoint: Int[np.ndarray, " place"],
    settings: Sequence[object] | None,
) -> Interval:
    """Build intervals from each run's value and its prompts' influences, which are 0 where a prompt has no such
    place."""
    runs = (~np.isnan(of_run)).sum(axis=0)
    n = there.any(axis=0).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.nansum(of_run, axis=0) / runs
        rows = influence.sum(axis=0) / np.maximum(runs, 1)[:, None]
        prompts = np.where(n > 1, (rows**2).sum(axis=1) * n / (n - 1.0), np.nan)
    variance, freedom = between_runs(of_run, settings)
    over_prompts, over_seeds, own = criticals(prompts, n, variance, freedom)
    half = np.sqrt(over_prompts**2 * prompts + over_seeds**2 * own)
    tested = np.where(few(n) | np.isnan(value), 0, n)
    critical = critical_values(rows, tested)
    seeds = bool(np.isfinite(variance).any())
    extra = seed_part(variance, freedom, checkpoint, critical) if seeds else 0.0
    with np.errstate(invalid="ignore"):
        widest = np.where(tested > 0, np.sqrt(critical**2 * prompts + extra), np.nan)
    return Interval(value, value - half, value + half, value - widest, value + widest, seeds, n, runs)
